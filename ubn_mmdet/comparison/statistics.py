"""How far two norms differ, over training seeds, and what of it is more than chance.

Norms are compared by Welch's t, without pairing. Runs of one seed share data order and
initial values, but results soon depend on neither, and pairs would cost degrees of freedom.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
NOT_OVER_IMAGES = 'not significant over images'
# Why there is no verdict.
TOO_FEW = 'too few seeds for a verdict'
NO_SPREAD = 'no spread over seeds: no verdict'
NO_IMAGES = 'no interval over images: no verdict'
_SAME = 1e-9  # what rounding makes of nothing
Interval = tuple[float, float]


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """``{'mean', 'deviation', 'count'}`` of one number over runs; None without values.

    The deviation is that of a sample (``n - 1``), and None for one value.
    """
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        'mean': float(np.mean(values)),
        'deviation': deviation,
        'count': len(values),
    }


def compare(
    baseline: Sequence[float], other: Sequence[float], tests: int = 1
) -> dict[str, Any] | None:
    """Compare two norms; None if one has no value.

    Args:
        baseline: A value for each of its seeds.
        other: A value for each of its seeds.
        tests: How many comparisons the significance is corrected for, which makes what
            can be detected larger.

    Returns:
        ``difference`` of the means; its 95% ``interval`` and two-sided ``p``, by Welch's t;
        ``detectable``, the true difference that such a comparison would find significant in
        80% of cases, if values spread as they do here; and ``seeds``, how many the baseline
        and the other norm have. All but the first and the last are None where a norm has
        one seed, or values are without any spread.
    """
    if not baseline or not other:
        return None
    found: dict[str, Any] = {'difference': float(np.mean(other) - np.mean(baseline))}
    found |= dict.fromkeys(('interval', 'p', 'detectable'))
    counts = found['seeds'] = len(baseline), len(other)
    if min(counts) < 2:
        return found
    if np.ptp(baseline) < _SAME and np.ptp(other) < _SAME:
        if abs(found['difference']) < _SAME:
            found |= {'difference': 0.0, 'interval': (0.0, 0.0)}
            found |= {'p': 1.0, 'detectable': 0.0}
        return found
    test = ttest_ind(other, baseline, equal_var=False)
    # The least difference whose t passes the threshold often enough (Bloom 1995).
    error = np.sqrt(
        np.var(baseline, ddof=1) / counts[0] + np.var(other, ddof=1) / counts[1]
    )
    threshold = student.ppf(1 - SIGNIFICANT / 2 / tests, test.df)
    return found | {
        'interval': tuple(map(float, test.confidence_interval(CONFIDENCE))),
        'p': float(test.pvalue),
        'detectable': float(error * (threshold + student.ppf(POWER, test.df))),
    }


def holm(ps: Sequence[float]) -> list[float]:
    """Probabilities corrected by Holm's method for how many there are, in their order."""
    order = np.argsort(ps)
    corrected = np.array(ps)[order] * np.arange(len(ps), 0, -1)
    found = np.empty(len(ps))
    found[order] = np.minimum(np.maximum.accumulate(corrected), 1)
    return found.tolist()


def verdict(found: Mapping[str, Any], p: float) -> str:
    """The verdict on a primary contrast.

    Args:
        found: What :func:`compare` gives, if it gives anything; ``missing``, how many of
            the planned runs have not ended; and ``over_images``, the interval over images,
            None if it is not known. Without that key, none is needed.
        p: Corrected for the number of contrasts.
    """
    if found['missing']:
        return f'runs missing: {found["missing"]}'
    if min(found.get('seeds', [0])) < FEWEST_SEEDS:
        return TOO_FEW
    if found['p'] is None:
        return NO_SPREAD
    if p >= SIGNIFICANT:
        return NO_DIFFERENCE
    difference = found['difference']
    over_images = found.get('over_images', (difference, difference))
    if over_images is None:
        return NO_IMAGES
    if over_images[0] <= 0 <= over_images[1]:
        return NOT_OVER_IMAGES
    return HIGHER if difference > 0 else LOWER
