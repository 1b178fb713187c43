"""The benchmark measures what it says, and keeps what it measured."""

import json
import math

import pytest
import torch
from helpers.commands import ROOT, run
from PIL import Image
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.bench import layers as benchmark
from ubn_mmdet.bench.growth import draw_growth
from ubn_mmdet.bench.results import Results
from ubn_mmdet.bench.tables import tables
from ubn_mmdet.bench.timing import interval, ratio, time_interleaved, total_times
from ubn_mmdet.mm.training_step import (
    NORMS,
    PROPOSALS,
    _proposals,
    _propose,
    time_training_steps,
)
from ubn_mmdet.records import RecordError

CPU = torch.device('cpu')


def test_the_definition_is_ubn():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 5) + 1
    theirs, ours = benchmark.DefinitionUBN(3), UBN(3)
    with torch.no_grad():
        gate = torch.sigmoid(torch.tensor(1.0))
        ours.weight.zero_()
        ours.spatial_weight.copy_(theirs.kernel.weight[:, 0] * gate)
        ours.bias.copy_(theirs.kernel.bias * gate)
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs.condensation, ours.condensation)


def test_runs_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = time_interleaved(runs, repeats=2)
    assert order == list('ababab')  # the first turn is for warming up
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 2, 'b': 2}


@pytest.mark.parametrize('mode', benchmark.MODES)
def test_every_layer_is_timed_in_every_mode(mode):
    times = benchmark.time_layers((2, 4, 8, 8), mode, CPU, repeats=2)
    assert set(times) == set(benchmark.layers(4, CPU))
    assert all(second > 0 for seconds in times.values() for second in seconds)


def test_compiled_layers_take_their_turns_with_plain_ones(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, 'compile', lambda layer, options: compiled.append(layer) or layer
    )
    shape, names = (2, 4, 8, 8), set(benchmark.layers(4, CPU)) - {'definition'}
    times = benchmark.time_compiled(shape, CPU, repeats=2)
    assert set(times) == names | {f'{name}, compiled' for name in names}
    first = benchmark.first_calls(shape, CPU)
    assert set(first) == names and len(compiled) == 2 * len(names)
    content = {'compiled': {'x': times}, 'first call': {'x': first}}
    written = tables({'machine': {}, **content})
    assert '| x |' in written['compiled'] and '| x |' in written['first call, ms']


def test_operations_are_profiled():
    case = benchmark.profile_operations((2, 4, 8, 8), 'evaluation', CPU, repeats=2)
    assert case['BatchNorm']['aten::native_batch_norm'] > 0
    assert case['UBN k=1']['_ClosedForm'] > 0


def test_what_layers_save():
    sizes = benchmark.saved_bytes((2, 4, 32, 32), CPU)
    of_input = 2 * 4 * 32 * 32 * 4
    for name, inputs in {
        'BatchNorm': 1,
        'UBN k=1': 1,
        'UBN k=3': 1,
        'BatchNorm + depthwise 3x3': 2,
    }.items():
        assert inputs * of_input <= sizes[name] < (inputs + 0.2) * of_input, name


def test_ratios_are_taken_turn_by_turn():
    times = {'a': [2.0, 20.0, 6.0], 'b': [1.0, 10.0, 2.0]}
    assert ratio(times, 'a', 'b') == (2.0, 2.0, 2.5)
    assert total_times([times, times])['a'] == [4.0, 40.0, 12.0]


def test_a_measured_case_is_not_measured_again(tmp_path):
    path = tmp_path / 'results.json'
    results = Results(path, {'device': 'this'})
    results.case('section', 'case', lambda: {'a': [1.0]})
    again = Results(path, {'device': 'this'})
    again.case('section', 'case', lambda: pytest.fail('ran again'))
    assert json.loads(path.read_text())['section']['case'] == {'a': [1.0]}
    with pytest.raises(RecordError, match="device 'this' instead of 'that'"):
        Results(path, {'device': 'that'})
    path.write_text('[]')
    with pytest.raises(RecordError, match='no readable record'):
        Results(path, {'device': 'this'})


def test_growth_is_in_one_direction_at_a_time():
    for direction, shapes in benchmark.growth_shapes().items():
        for small, large in zip(shapes, shapes[1:], strict=False):
            grown = [b / a for a, b in zip(small, large, strict=True)]
            assert (
                grown
                == {
                    'N': [2, 1, 1, 1],
                    'C': [1, 2, 1, 1],
                    'H*W': [1, 1, 2, 2],
                }[direction]
            )
            assert all(isinstance(size, int) for size in large)


def test_growth_is_drawn(tmp_path):
    case = {'BatchNorm': [0.1, 0.2], 'UBN': [0.2, 0.3]}
    content = {'growth over N': {'1x2x3x3': case, '2x2x3x3': case}}
    draw_growth(content, tmp_path / 'growth.png')
    assert min(Image.open(tmp_path / 'growth.png').size) > 300


@pytest.mark.slow
def test_the_command_line_writes_json_and_a_table(tmp_path):
    tool = ROOT / 'tools/benchmark_layer.py'
    output = run(
        tool,
        '--parts',
        'memory',
        'operations',
        '--repeats',
        1,
        '--out',
        'bench/layer',
        cwd=tmp_path,
    )
    report = (tmp_path / 'bench/layer.md').read_text()
    assert report in output and '### Saved for backward' in report
    assert '### Operations, evaluation' in report
    content = json.loads((tmp_path / 'bench/layer.json').read_text())
    assert content['machine']['torch'] == torch.__version__


def test_the_interval_of_a_median_is_of_order_statistics():
    # Of ten values, 2nd to 9th: P(Binomial(10, 1/2) <= 1) = 0.011 on each side.
    times = {'a': [float(i) for i in range(1, 11)], 'b': [1.0] * 10}
    assert interval(times, 'a', 'b') == (5.5, 2.0, 9.0)
    assert math.isnan(interval({'a': [1.0, 2.0], 'b': [1.0, 1.0]}, 'a', 'b')[1])


@pytest.fixture(scope='module')
def demo_config():
    return ROOT / 'configs/demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'


@pytest.mark.slow
def test_detectors_are_timed_in_parts(demo_config):
    times = time_training_steps(demo_config, (64, 64), 2, CPU, repeats=6)
    assert set(times) == {'backbone and neck', 'whole step'}
    for of_norms in times.values():
        assert set(of_norms) == set(NORMS)
        assert all(len(t) == 6 and min(t) > 0 for t in of_norms.values())
    table = tables({'machine': {}, 'training step': {'demo': times}})['training step']
    assert 'demo: backbone and neck' in table and 'nan' not in table


def test_all_norms_of_a_detector_see_the_same_proposals(monkeypatch):
    class Head(nn.Module):
        def loss_and_predict(self, x):
            return {'loss': x}, [f'what this one proposes for {x}']

    heads = [Head(), Head()]
    for head in heads:
        _propose(head, _proposals(2, (64, 48), CPU))
    (loss, first), (_, second) = (head.loss_and_predict(3) for head in heads)
    assert loss == {'loss': 3}
    for a, b in zip(first, second, strict=True):
        assert a.bboxes.equal(b.bboxes) and len(a) == PROPOSALS
        width, height = (a.bboxes[:, 2:] - a.bboxes[:, :2]).unbind(1)
        assert width.min() > 0 and height.min() > 0
        assert a.bboxes[:, 2].max() <= 48 + 1 and a.bboxes[:, 3].max() <= 64 + 1


def test_the_pair_that_the_kernel_is_measured_with():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3)))
    paired = NORMS['BatchNorm + depthwise 3x3'](model)
    norm, convolution = paired[1][0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert convolution.groups == 3 and convolution.padding == (1, 1)
