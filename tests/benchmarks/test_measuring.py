"""Steps take turns, ratios have intervals, and what else a step costs is counted."""

import math
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from benchmarks import measuring
from benchmarks.layers import layer_launches, layer_memory
from benchmarks.measuring import ratio, time_in_turns

CPU = torch.device('cpu')
# Of a step, at most: an operation more in a layer is one more in all layers of a model.
LAUNCHES = {'BatchNorm': 4, 'UBN k=1': 115, 'UBN k=3': 122, 'BNET': 74}


def test_steps_take_turns():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = time_in_turns(steps, 2, CPU, shortest=0)
    assert order == list('aabb') + list('abab')  # the first two of each warm up
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 2, 'b': 2}


class FakeDevice:
    """A clock, and a device whose work is done while one waits for it."""

    def __init__(self, monkeypatch):
        self.now, self.queue = 0.0, []
        monkeypatch.setattr(time, 'perf_counter', lambda: self.now)
        monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: self.wait())

    def launch(self, seconds):
        self.now += 1e-5  # what the call itself takes
        self.queue.append(seconds)

    def wait(self):
        self.now += sum(self.queue)
        self.queue.clear()


def test_the_work_of_a_gpu_is_in_the_time(monkeypatch):
    device = FakeDevice(monkeypatch)
    steps = {'short': lambda: device.launch(1e-3), 'long': lambda: device.launch(1.0)}
    times = time_in_turns(steps, 2, torch.device('cuda'))
    assert times['short'] == pytest.approx([1e-3 + 1e-5] * 2)
    assert times['long'] == pytest.approx([1.0 + 1e-5] * 2)


def test_short_steps_are_called_several_times_a_turn(monkeypatch):
    device = FakeDevice(monkeypatch)
    calls = []

    def step():
        calls.append(1)
        device.launch(1e-3 - 1e-5)

    time_in_turns({'short': step}, 3, torch.device('cuda'), shortest=0.01)
    assert len(calls) == 2 + 3 * 10


def test_ratios_are_taken_turn_by_turn():
    times = {'a': [2.0, 20.0, 6.0], 'b': [1.0, 10.0, 2.0]}
    assert ratio(times, 'a', 'b').median == 2


def test_the_interval_of_a_median_is_of_order_statistics():
    # Of ten values, 2nd to 9th: P(Binomial(10, 1/2) <= 1) = 0.011 on each side.
    ten = {'a': [float(i) for i in range(1, 11)], 'b': [1.0] * 10}
    assert ratio(ten, 'a', 'b') == (5.5, 2.0, 9.0)
    assert str(ratio(ten, 'a', 'b')) == '5.50 (2.00–9.00)'
    assert math.isnan(ratio({'a': [1.0, 2.0], 'b': [1.0, 1.0]}, 'a', 'b').low)


# --- memory and launches ------------------------------------------------------------


def test_what_layers_keep_for_backward():
    saved = layer_memory((2, 4, 32, 32), CPU)
    of_input = 2 * 4 * 32 * 32 * 4
    for name, inputs in {
        'BatchNorm': 1,
        'UBN k=1': 1,
        'UBN k=3': 1,
        'BatchNorm + depthwise 3x3': 2,
    }.items():
        assert inputs * of_input <= saved[name] < (inputs + 0.2) * of_input, name


def test_parameters_are_not_counted_as_kept():
    layer = nn.Linear(1000, 2, bias=False)
    assert measuring.saved_bytes(layer, torch.ones(3, 1000)) == 3 * 1000 * 4


def test_launches_are_operations_that_are_no_views():
    x = torch.zeros(2, 3)
    assert (
        measuring.count_launches(lambda: x.view(6).add_(1).view(3, 2).sum(), CPU) == 2
    )


@pytest.mark.parametrize('name', LAUNCHES)
def test_no_layer_launches_more(name):
    assert layer_launches(CPU)[name] <= LAUNCHES[name]


def test_on_a_gpu_the_events_of_the_device_are_counted(monkeypatch):
    events = [DeviceType.CPU, DeviceType.CUDA, DeviceType.CPU, DeviceType.CUDA]

    @contextmanager
    def profile(activities):
        yield SimpleNamespace(
            events=lambda: [SimpleNamespace(device_type=kind) for kind in events]
        )

    monkeypatch.setattr(measuring, 'profile', profile)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    assert measuring.count_launches(lambda: None, torch.device('cuda')) == 2
