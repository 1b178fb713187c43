"""Steps take turns, and what else a step costs is counted."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from ubn_mmdet import measuring
from ubn_mmdet.measuring import (
    OURS,
    THEIRS,
    count_launches,
    layer_steps,
    saved_bytes,
    time_in_turns,
    training_step,
)

CPU = torch.device('cpu')
# Of a step, at most: an operation more in a layer is one more in all layers of a model.
LAUNCHES = {'BatchNorm': 4, 'UBN k=1': 115, 'UBN k=3': 122, 'BNET': 74}


def test_a_training_step_leaves_the_gradients_of_one():
    layer, x = nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4)
    step = training_step(layer, x)
    step()
    first = layer.bias.grad.clone()
    step()
    assert layer.bias.grad.equal(first) and x.grad is None


def test_layers_see_the_same_input():
    seen = []

    class Seeing(nn.BatchNorm2d):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    x = torch.randn(2, 4, 5, 5)
    steps = layer_steps(x, {'one': Seeing, 'other': Seeing})
    for name in ('one', 'one', 'other'):
        steps[name]()
    assert len(seen) == 3 and all(each.equal(x) for each in seen)


# --- time ---------------------------------------------------------------------------


def test_steps_take_turns():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = time_in_turns(steps, 2, shortest=0)
    assert order == list('aabb') + list('abab')  # the first two of each warm up
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 2, 'b': 2}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when something adds to its time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(measuring, 'timer', lambda: clock.now)
    return clock


def test_short_steps_are_called_several_times_a_turn(clock):
    calls = []

    def step():
        calls.append(1)
        clock.now += 1e-3

    times = time_in_turns({'short': step}, 3, shortest=0.0099)
    assert len(calls) == 2 + 3 * 10
    assert times['short'] == pytest.approx([1e-3] * 3)


# --- memory and launches ------------------------------------------------------------


def test_what_layers_keep_for_backward():
    x = torch.randn(2, 4, 32, 32)
    of_input = 2 * 4 * 32 * 32 * 4
    for name, norm in (THEIRS | OURS).items():
        saved = saved_bytes(norm(4), x)
        assert of_input <= saved < 1.2 * of_input, name
    assert (
        saved_bytes(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)), x)
        > 2 * of_input
    )


def test_parameters_are_not_counted_as_kept():
    layer = nn.Linear(1000, 2, bias=False)
    assert saved_bytes(layer, torch.ones(3, 1000)) == 3 * 1000 * 4


def test_launches_are_operations_that_are_no_views():
    x = torch.zeros(2, 3)
    assert count_launches(lambda: x.view(6).add_(1).view(3, 2).sum(), CPU) == 2


@pytest.mark.parametrize('name', LAUNCHES)
def test_no_layer_launches_more(name):
    steps = layer_steps(torch.randn(2, 64, 8, 8))
    assert count_launches(steps[name], CPU) <= LAUNCHES[name]


def test_on_a_gpu_the_events_of_the_device_are_counted(monkeypatch):
    events = [DeviceType.CPU, DeviceType.CUDA, DeviceType.CPU, DeviceType.CUDA]

    @contextmanager
    def profile(activities):
        yield SimpleNamespace(
            events=lambda: [SimpleNamespace(device_type=kind) for kind in events]
        )

    monkeypatch.setattr(measuring, 'profile', profile)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    assert count_launches(lambda: None, torch.device('cuda')) == 2
