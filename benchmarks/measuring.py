"""Times interleaved runs, and counts what else a step costs.

Absolute times change with the load of a machine. Ratios of neighbouring turns hold.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from scipy.stats import quantile_test
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

Step = Callable[[], object]
Times = Mapping[str, Sequence[float]]
SHORTEST = 0.01  # seconds


class Ratio(NamedTuple):
    """The median of ratios, and the 95% confidence interval of that median."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as ``'1.05 (1.02–1.09)'``."""
        return f'{self.median:.2f} ({self.low:.2f}–{self.high:.2f})'


def time_in_turns(
    steps: Mapping[str, Step],
    turns: int,
    device: torch.device,
    shortest: float = SHORTEST,
) -> dict[str, list[float]]:
    """Seconds of one call of each step, ``turns`` of each, one after the other.

    Args:
        steps: By name.
        turns: Measurements of each. Two calls before them are not measured.
        device: Where the steps compute. Its work is waited for.
        shortest: Seconds that a turn takes at least: short steps are called several times.
    """
    calls = {}
    for name, step in steps.items():
        step()
        calls[name] = max(1, math.ceil(shortest / _seconds_of(step, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(_seconds_of(step, calls[name], device))
    return times


def _seconds_of(step: Step, calls: int, device: torch.device) -> float:
    """Seconds of one call, the mean over ``calls``; the device's work is in it."""
    start = _now(device)
    for _ in range(calls):
        step()
    return (_now(device) - start) / calls


def _now(device: torch.device) -> float:
    if device.type == 'cuda':  # calls return before the work is done
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ratio(times: Times, over: str, under: str) -> Ratio:
    """How long one takes over another, pair by pair of neighbouring turns.

    The interval is of order statistics, whatever the distribution. Five turns and fewer
    give none; then it is from nan to nan.
    """
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    found = quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return Ratio(statistics.median(ratios), float(found.low), float(found.high))


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
