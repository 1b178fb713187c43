"""Steps take turns, the device's work is in their time, and ratios have intervals."""

import math
import time

import pytest
import torch

from benchmarks.timing import median_with_interval, ratio, time_in_turns

CPU = torch.device('cpu')


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
    found = median_with_interval([float(i) for i in range(1, 11)])
    assert found == (5.5, 2.0, 9.0) and str(found) == '5.50 (2.00–9.00)'
    assert math.isnan(median_with_interval([1.0, 2.0]).low)
