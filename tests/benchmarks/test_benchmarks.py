"""The benchmarks measure what they say, and go on where they were interrupted."""

import json
import math

import pytest
import torch
from helpers.commands import run
from torch import nn

from benchmarks import inference, layers
from benchmarks.detectors import (
    FEATURES,
    WHOLE,
    Case,
    detectors,
    feature_step,
    whole_step,
)
from benchmarks.reporting import Results, ratio, ratio_table
from ubn_mmdet import UBN
from ubn_mmdet.deploy.fold import is_norm
from ubn_mmdet.measuring import time_in_turns
from ubn_mmdet.records import RecordError

CPU = torch.device('cpu')
NORMS = {'BatchNorm', 'UBN k=1', 'BatchNorm + depthwise 3x3', 'UBN k=3'}


def test_ratios_are_taken_turn_by_turn():
    times = {'a': [2.0, 20.0, 6.0], 'b': [1.0, 10.0, 2.0]}
    assert ratio(times, 'a', 'b')[0] == 2


def test_the_interval_of_a_median_is_of_order_statistics():
    # Of ten values, 2nd to 9th: P(Binomial(10, 1/2) <= 1) = 0.011 on each side.
    ten = {'a': [float(i) for i in range(1, 11)], 'b': [1.0] * 10}
    assert ratio(ten, 'a', 'b') == (5.5, 2.0, 9.0)
    assert '| 5.50 (2.00–9.00) |' in ratio_table({'ten': ten}, (('a', 'b'),), 'b')
    assert math.isnan(ratio({'a': [1.0, 2.0], 'b': [1.0, 1.0]}, 'a', 'b')[1])


def test_a_measured_case_is_not_measured_again(tmp_path):
    path = tmp_path / 'folder/results.jsonl'
    results = Results(path, {'device': 'this'})
    results.measure('section', 'case', lambda: {'a': [1.0]})
    again = Results(path, {'device': 'this'})
    assert again.measure('section', 'case', lambda: pytest.fail('ran again')) == {
        'a': [1.0]
    }
    with pytest.raises(RecordError, match="'this' instead of 'that'.*name another"):
        Results(path, {'device': 'that'})
    path.write_text('')
    with pytest.raises(RecordError, match='absent instead of'):
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


SMALL = Case('demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py', 2, (64, 64))


@pytest.mark.slow
def test_detectors_are_the_same_but_for_the_norm():
    found = detectors(SMALL, CPU)
    assert set(found) == NORMS
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
@pytest.mark.parametrize('name', [*FEATURES, *WHOLE])
def test_what_is_compared_with_is_batchnorm(name):
    found = detectors((FEATURES | WHOLE)[name], CPU)
    norms = [m for m in found['BatchNorm'].modules() if is_norm(m)]
    assert len(norms) in (20, 53) and {type(m) for m in norms} == {nn.BatchNorm2d}


@pytest.mark.slow
@pytest.mark.parametrize('step', [feature_step, whole_step])
def test_steps_of_detectors(step):
    case = SMALL
    if step is whole_step:
        case = case._replace(config='demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py')
    steps = {n: step(model, case, CPU) for n, model in detectors(case, CPU).items()}
    times = time_in_turns(steps, 1, shortest=0)
    assert min(seconds for [seconds] in times.values()) > 0


@pytest.mark.slow
def test_inference_is_timed_as_trained_and_folded(monkeypatch):
    monkeypatch.setattr(inference, 'SIZE', (64, 64))
    times = inference.time_inference(inference.DETECTORS['RetinaNet R18'], 6, CPU)
    table = inference.tables({'seconds': {'small': times}})['ratios']
    assert 'UBN k=1 at rest, folded / BN, folded' in table and 'nan' not in table
