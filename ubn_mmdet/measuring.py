"""What a norm layer costs: the time of a step, its launches, what it keeps in memory."""

import functools
import math
import os
import timeit
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import timer  # waits for the work of the current GPU

from .layers import BNET, UBN
from .ops.passes import choose_passes

Step = Callable[[], object]
Norm = Callable[[int], nn.Module]  # makes a layer for a number of channels
BN, UBN_1, UBN_3 = 'BatchNorm', 'UBN k=1', 'UBN k=3'
THEIRS: dict[str, Norm] = {BN: nn.BatchNorm2d}
OURS: dict[str, Norm] = {
    UBN_1: functools.partial(UBN, kernel_size=1),
    UBN_3: UBN,
    'BNET': BNET,
}


def passes_on(device: torch.device) -> tuple[str, ...]:
    """Implementations that can run: ``'fused'``, and perhaps ``'triton'``."""
    interprets = os.environ.get('TRITON_INTERPRET') == '1'
    if find_spec('triton') is not None and (device.type == 'cuda' or interprets):
        return 'fused', 'triton'
    return ('fused',)


def steps_of_norms(
    make: Callable[[Norm], Step],
    device: torch.device,
    theirs: Mapping[str, Norm] = THEIRS,
) -> dict[str, Step]:
    """A step that ``make`` gives for each norm; for our own, on a GPU with Triton two."""
    steps = {name: make(norm) for name, norm in theirs.items()}
    # Interpreted kernels are not worth measuring.
    triton = device.type == 'cuda' and 'triton' in passes_on(device)
    for name, norm in OURS.items():
        steps[name] = choose_passes('fused')(make(norm))
        if triton:
            steps[f'{name}, triton'] = choose_passes('triton')(make(norm))
    return steps


def layer_steps(x: Tensor, theirs: Mapping[str, Norm] = THEIRS) -> dict[str, Step]:
    """A training step of one layer of each norm on ``x``, ``(N, C, H, W)``."""

    def make(norm: Norm) -> Step:
        return training_step(norm(x.shape[1]).to(x.device), x)

    return steps_of_norms(make, x.device, theirs)


def training_step(layer: nn.Module, x: Tensor) -> Step:
    """Forward and backward of a layer for an input ``(N, C, H, W)``, as in training."""
    x = x.detach().requires_grad_()
    upstream = torch.randn_like(x)

    def step() -> None:
        layer.zero_grad()
        layer(x).backward(upstream)
        x.grad = None  # as without, the next step would add to it

    return step


def time_in_turns(
    steps: Mapping[str, Step], turns: int, shortest: float = 0.01
) -> dict[str, list[float]]:
    """Seconds of one call of each step, ``turns`` of each, one after the other.

    Absolute times change with the load of a machine. Ratios of neighbouring turns hold.

    Args:
        steps: By name.
        turns: Measurements of each. Two calls before them are not measured.
        shortest: Seconds that a turn takes at least: short steps are called several times.
    """
    calls = {}
    for name, step in steps.items():
        step()
        calls[name] = max(1, math.ceil(shortest / _seconds_of(step, 1)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(_seconds_of(step, calls[name]))
    return times


def _seconds_of(step: Step, calls: int) -> float:
    return timeit.timeit(step, timer=timer, number=calls) / calls


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that a forward keeps for backward; parameters and buffers are left out."""
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x.detach().requires_grad_())
    del y  # until here it keeps what is saved, so that no address comes again
    return sum(size for address, size in saved.items() if address not in own)


def count_launches(step: Step, device: torch.device) -> int:
    """How often a step gives a device work: kernels and copies.

    On a CPU these are the operations that compute something, each of which is a launch or
    more on a GPU. Large inputs are computed in parts there, so count with small ones.
    """
    step()  # some tensors are made once
    if device.type == 'cuda':
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize(device)
        return sum(e.device_type == DeviceType.CUDA for e in profiler.events())
    with _Operations() as operations:
        step()
    return operations.count


class _Operations(TorchDispatchMode):
    """Counts operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.count += not function.is_view
        return function(*args, **kwargs or {})
