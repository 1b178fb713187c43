"""How far two norms differ, over training seeds.

Runs of one seed share data order, augmentation and initial values, so norms are compared
seed by seed: a paired t interval for the mean difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

CONFIDENCE = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one number over runs.

    Attributes:
        mean: The mean.
        deviation: The sample standard deviation (``n - 1``); None for one value.
        count: How many values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """A paired comparison, other minus baseline.

    Attributes:
        difference: The mean difference over common seeds.
        interval: Its 95% t interval. None if there is none: one seed, or differences
            that are equal but not zero, whose spread rounding has hidden.
        p: Two-sided p of no difference; None with the interval.
        seeds: The common seeds, ascending.
    """

    difference: float
    interval: Interval | None
    p: float | None
    seeds: tuple[int, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def paired(baseline: Mapping[int, float], other: Mapping[int, float]) -> Paired | None:
    """Compare two norms by the seeds that both have; None if there is no such seed.

    Args:
        baseline: The value of each seed.
        other: The value of each seed.
    """
    seeds = tuple(sorted(baseline.keys() & other.keys()))
    if not seeds:
        return None
    a = np.array([baseline[seed] for seed in seeds])
    b = np.array([other[seed] for seed in seeds])
    difference = float((b - a).mean())
    if np.allclose(a, b, rtol=0, atol=1e-9) and len(seeds) > 1:
        return Paired(0.0, (0.0, 0.0), 1.0, seeds)
    if np.allclose(b - a, difference, rtol=0, atol=1e-9):
        return Paired(difference, None, None, seeds)
    test = ttest_rel(b, a)
    low, high = test.confidence_interval(CONFIDENCE)
    return Paired(difference, (float(low), float(high)), float(test.pvalue), seeds)


def verdict(over_seeds: Interval | None, over_images: Interval | None = None) -> str:
    """What the intervals of a difference say: higher, lower, or no significant difference.

    Without an interval over seeds two models may be told apart, but not two norms. An
    interval over images, where there is one, has to agree.
    """
    if over_seeds is None:
        return 'no significant difference'
    intervals = [i for i in (over_seeds, over_images) if i is not None]
    if all(low > 0 for low, _ in intervals):
        return 'higher'
    if all(high < 0 for _, high in intervals):
        return 'lower'
    return 'no significant difference'
