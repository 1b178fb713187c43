"""Times what runs in turns, and compares it turn by turn.

Absolute times change with the load of a machine. Ratios of neighbouring turns hold.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from scipy.stats import quantile_test

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
        calls[name] = max(1, math.ceil(shortest / seconds_of(step, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(seconds_of(step, calls[name], device))
    return times


def seconds_of(step: Step, calls: int, device: torch.device) -> float:
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
    """How long one takes over another, pair by pair of neighbouring turns."""
    return median_with_interval(
        [a / b for a, b in zip(times[over], times[under], strict=True)]
    )


def median_with_interval(ratios: Sequence[float]) -> Ratio:
    """Their median and its interval, of order statistics, whatever the distribution.

    Five values and fewer give no interval; then it is from nan to nan.
    """
    found = quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return Ratio(statistics.median(ratios), float(found.low), float(found.high))
