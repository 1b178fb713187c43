"""Memory that is kept for backward, and launches."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from benchmarks import costs
from benchmarks.layer_steps import layer_launches, layer_memory

CPU = torch.device('cpu')
# Of a step, at most: an operation more in a layer is one more in all layers of a model.
LAUNCHES = {'BatchNorm': 4, 'UBN k=1': 115, 'UBN k=3': 122, 'BNET': 74}


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
    assert costs.saved_bytes(layer, torch.ones(3, 1000)) == 3 * 1000 * 4


def test_launches_are_operations_that_are_no_views():
    x = torch.zeros(2, 3)
    assert costs.count_launches(lambda: x.view(6).add_(1).view(3, 2).sum(), CPU) == 2


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

    monkeypatch.setattr(costs, 'profile', profile)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    assert costs.count_launches(lambda: None, torch.device('cuda')) == 2
