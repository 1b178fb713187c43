"""The benchmark measures what it says, and keeps what it measured."""

import json

import pytest
import torch
from helpers.commands import ROOT, run
from PIL import Image

from ubn_mmdet import UBN
from ubn_mmdet.bench import layers as benchmark
from ubn_mmdet.bench.growth import draw_growth
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
    times = benchmark.time_interleaved(runs, repeats=2)
    assert order == list('ababab')  # the first turn is for warming up
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 2, 'b': 2}


@pytest.mark.parametrize('mode', benchmark.MODES)
def test_every_layer_is_timed_in_every_mode(mode):
    times = benchmark.time_layers((2, 4, 8, 8), mode, CPU, repeats=2)
    assert set(times) == set(benchmark.layers(4, CPU))
    assert all(second > 0 for seconds in times.values() for second in seconds)


def test_operations_are_profiled():
    case = benchmark.profile_operations((2, 4, 8, 8), 'evaluation', CPU, repeats=2)
    assert case['BatchNorm']['aten::native_batch_norm'] > 0
    assert case['UBN k=1']['_Pointwise'] > 0


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
    assert benchmark.ratio(times, 'a', 'b') == (2.0, 2.0, 2.5)
    assert benchmark.total_times([times, times])['a'] == [4.0, 40.0, 12.0]


def test_a_measured_case_is_not_measured_again(tmp_path):
    path = tmp_path / 'results.json'
    results = benchmark.Results(path, {'device': 'this'})
    results.case('section', 'case', lambda: {'a': [1.0]})
    again = benchmark.Results(path, {'device': 'this'})
    again.case('section', 'case', lambda: pytest.fail('ran again'))
    assert json.loads(path.read_text())['section']['case'] == {'a': [1.0]}
    with pytest.raises(RecordError, match="device 'this' instead of 'that'"):
        benchmark.Results(path, {'device': 'that'})
    path.write_text('[]')
    with pytest.raises(RecordError, match='no readable record'):
        benchmark.Results(path, {'device': 'this'})


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
    assert '### Operations' in report
    content = json.loads((tmp_path / 'bench/layer.json').read_text())
    assert content['machine']['torch'] == torch.__version__


def test_detectors_are_timed():
    from ubn_mmdet.mm.training_step import time_training_steps

    configs = {
        norm: ROOT / f'configs/demo/mask-rcnn_r18-scratch_fpn_{norm}_6e_shapes.py'
        for norm in ('bn', 'ubn')
    }
    times = time_training_steps(configs, (64, 64), 2, CPU, repeats=1)
    assert set(times) == {'bn', 'ubn'} and all(len(t) == 1 for t in times.values())
