"""The benchmarks measure what they say, and go on where they were interrupted."""

import json

import pytest
import torch
from helpers.commands import run
from torch import nn

from benchmarks import inference, layers
from benchmarks.detectors import (
    R18,
    R50,
    RETINANET,
    Case,
    detectors,
    feature_steps,
    whole_steps,
)
from benchmarks.layers import layer_steps, training_step
from benchmarks.measuring import time_in_turns
from benchmarks.reporting import Results, ResultsError
from ubn_mmdet import UBN
from ubn_mmdet.deploy.fold import is_norm

CPU = torch.device('cpu')
NORMS = {'BatchNorm', 'UBN k=1', 'BatchNorm + depthwise 3x3', 'UBN k=3'}


def test_a_training_step_leaves_the_gradients_of_one():
    layer, x = nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4)
    step = training_step(layer, x)
    step()
    first = layer.bias.grad.clone()
    step()
    assert layer.bias.grad.equal(first) and x.grad is None


def test_layers_see_the_same_input(monkeypatch):
    seen = []
    monkeypatch.setattr(nn.BatchNorm2d, 'forward', lambda _, x: seen.append(x) or x * 1)
    steps = layer_steps((2, 4, 5, 5), CPU)
    for _ in range(2):
        steps['BatchNorm']()
    steps['BatchNorm + depthwise 3x3']()
    assert all(x.equal(seen[0]) and x.std() > 0.5 for x in seen)


def test_a_measured_case_is_not_measured_again(tmp_path):
    path = tmp_path / 'folder/results.jsonl'
    results = Results(path, {'device': 'this'})
    results.measure('section', 'case', lambda: {'a': [1.0]})
    again = Results(path, {'device': 'this'})
    assert again.measure('section', 'case', lambda: pytest.fail('ran again')) == {
        'a': [1.0]
    }
    with pytest.raises(ResultsError, match="'this'.*'that'.*another file"):
        Results(path, {'device': 'that'})
    path.write_text('')
    with pytest.raises(ResultsError, match='holds no results'):
        Results(path, {'device': 'this'})


def test_half_a_line_is_measured_again(tmp_path):
    path = tmp_path / 'results.jsonl'
    results = Results(path, {'device': 'this'})
    for case in ('first', 'second'):
        results.measure('section', case, lambda: 1)
    path.write_text(path.read_text()[:-20])
    again = Results(path, {'device': 'this'})
    assert again.rows == {'section': {'first': 1}}
    again.measure('section', 'second', lambda: 2)
    assert Results(path, {'device': 'this'}).rows['section'] == {
        'first': 1,
        'second': 2,
    }


@pytest.mark.slow
def test_the_command_line_writes_results_and_prints_tables(tmp_path):
    arguments = ['-m', 'benchmarks.layers', '--turns', 1, '--out', 'a/layers.jsonl']
    printed = run(*arguments, cwd=tmp_path)
    assert '| UBN k=1 / BatchNorm |' in printed and '| launches of a step |' in printed
    first, *rows = map(
        json.loads, (tmp_path / 'a/layers.jsonl').read_text().splitlines()
    )
    assert first['torch'] == torch.__version__
    assert len(rows) == 2 * len(layers.SHAPES) + 1
    again = run(*arguments, cwd=tmp_path)
    assert 'seconds:' in printed and 'seconds:' not in again


@pytest.mark.slow
def test_ranks_are_timed_together(tmp_path):
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node', '2']
    printed = run(*launcher, '-m', 'benchmarks.ranks', '--turns', 1, cwd=tmp_path)
    assert '(8, 256, 10, 10) on each of 2 ranks' in printed
    alone = run('-m', 'benchmarks.ranks', cwd=tmp_path, ok=False)
    assert 'start it as `torchrun' in alone


@pytest.fixture(scope='module')
def small():
    return Case('small', 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py', 2, (64, 64))


@pytest.mark.slow
def test_detectors_are_the_same_but_for_the_norm(small):
    assert str(small) == 'small, 2 images of 64x64'
    found = detectors(small, CPU)
    norms = {
        name: [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | UBN)]
        for name, model in found.items()
    }
    assert len({len(layers) for layers in norms.values()}) == 1
    assert all(isinstance(layer, UBN) for layer in norms['UBN k=3'])
    norm, convolution = found['BatchNorm + depthwise 3x3'].backbone.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    assert convolution.groups == 64 and convolution.padding == (1, 1)
    weights = [model.backbone.conv1.weight for model in found.values()]
    assert all(weight.equal(weights[0]) for weight in weights)


@pytest.mark.slow
@pytest.mark.parametrize('case', [R50, R18, RETINANET], ids=str)
def test_what_is_compared_with_is_batchnorm(case):
    norms = [m for m in detectors(case, CPU)['BatchNorm'].modules() if is_norm(m)]
    assert len(norms) in (20, 53) and {type(m) for m in norms} == {nn.BatchNorm2d}


@pytest.mark.slow
def test_steps_of_detectors(small):
    one_stage = Case(
        'one', 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py', 2, (64, 64)
    )
    features, whole = feature_steps(small, CPU), whole_steps(one_stage, CPU)
    assert set(features) == set(whole) == NORMS
    for steps in (features, whole):
        times = time_in_turns(steps, 1, CPU, shortest=0)
        assert min(seconds for [seconds] in times.values()) > 0


@pytest.mark.slow
def test_inference_is_timed_as_trained_and_folded(monkeypatch):
    monkeypatch.setattr(inference, 'SIZE', (64, 64))
    times = inference.time_inference(inference.DETECTORS['RetinaNet R18'], 6, CPU)
    table = inference.tables({'seconds': {'small': times}})['ratios']
    assert 'UBN k=1 at rest, folded / BN, folded' in table and 'nan' not in table
