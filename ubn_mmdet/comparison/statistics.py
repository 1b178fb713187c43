"""How far two norms differ, over training seeds, and what of it is more than chance.

Norms are compared by Welch's t: runs of one seed share data order and initial values, but
that makes their results no more alike than those of different seeds, so pairing them would
only cost degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_ind

CONFIDENCE = 0.95
POWER = 0.8
FEWEST_SEEDS = 5  # for a verdict
SIGNIFICANT = 1 - CONFIDENCE
HIGHER = 'higher'
LOWER = 'lower'
NO_DIFFERENCE = 'no significant difference'
TOO_FEW = 'too few seeds for a verdict'
_SAME = 1e-9  # what rounding makes of nothing
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
class Difference:
    """Another norm minus a baseline, over seeds.

    Attributes:
        difference: Of the means.
        interval: Its 95% interval, by Welch's t. None if there is none: a norm with one
            seed, or values without any spread.
        p: Two-sided p of no difference; None with the interval.
        detectable: The true difference that such a comparison would find significant in
            80% of cases, if values spread as they do here; None with the interval.
        seeds: How many the baseline and the other norm have.
        over_images: Its 95% interval over validation images, if there is one.
    """

    difference: float
    interval: Interval | None
    p: float | None
    detectable: float | None
    seeds: tuple[int, int]
    over_images: Interval | None = None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def compare(
    baseline: Sequence[float], other: Sequence[float], tests: int = 1
) -> Difference | None:
    """Compare two norms; None if one has no value.

    Args:
        baseline: A value for each of its seeds.
        other: A value for each of its seeds.
        tests: How many comparisons the significance is corrected for, which makes what
            can be detected larger.
    """
    if not baseline or not other:
        return None
    difference = float(np.mean(other) - np.mean(baseline))
    seeds = len(baseline), len(other)
    if min(seeds) < 2:
        return Difference(difference, None, None, None, seeds)
    if np.ptp(baseline) < _SAME and np.ptp(other) < _SAME:
        if abs(difference) < _SAME:
            return Difference(0.0, (0.0, 0.0), 1.0, 0.0, seeds)
        return Difference(difference, None, None, None, seeds)
    test = ttest_ind(other, baseline, equal_var=False)
    low, high = map(float, test.confidence_interval(CONFIDENCE))
    # The least difference whose t passes the threshold often enough (Bloom 1995).
    error = np.sqrt(
        np.var(baseline, ddof=1) / seeds[0] + np.var(other, ddof=1) / seeds[1]
    )
    threshold = student.ppf(1 - SIGNIFICANT / 2 / tests, test.df)
    detectable = float(error * (threshold + student.ppf(POWER, test.df)))
    return Difference(difference, (low, high), float(test.pvalue), detectable, seeds)


def holm(ps: Sequence[float]) -> list[float]:
    """Probabilities corrected by Holm's method for how many there are, in their order."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for i, place in enumerate(np.argsort(ps)):
        highest = max(highest, min(1.0, ps[place] * (len(ps) - i)))
        corrected[place] = highest
    return corrected


def verdict(found: Difference | None, p: float | None) -> str:
    """The verdict on a primary contrast.

    Args:
        found: The difference. Where it has an interval over images, that has to agree.
        p: Corrected for the number of contrasts.
    """
    if found is None or min(found.seeds) < FEWEST_SEEDS:
        return TOO_FEW
    if p is None or p >= SIGNIFICANT:
        return NO_DIFFERENCE
    low, high = found.over_images or (found.difference, found.difference)
    if found.difference > 0 and low > 0:
        return HIGHER
    if found.difference < 0 and high < 0:
        return LOWER
    return NO_DIFFERENCE
