"""Means, intervals, corrections and verdicts, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from ubn_mmdet.comparison.statistics import (
    compare,
    holm,
    spread,
    verdict,
)


def test_mean_and_deviation():
    found = spread([1.0, 2.0, 6.0])
    # Squares of 2, 1 and 3 over 2.
    assert (found['mean'], found['count']) == (3, 3)
    assert found['deviation'] == pytest.approx(7**0.5)


def test_one_value_has_no_deviation():
    found = spread([0.5])
    assert (found['mean'], found['deviation'], found['count']) == (0.5, None, 1)
    assert spread([]) is None


def test_a_comparison():
    # Variances 1 and 1: the standard error is sqrt(2/3), there are 4 degrees of freedom,
    # and 95% lie within t = 2.776445.
    found = compare([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert found['difference'] == pytest.approx(3)
    margin = 2.776445 * (2 / 3) ** 0.5
    assert found['interval'] == pytest.approx((3 - margin, 3 + margin), rel=1e-6)
    # For 4 degrees of freedom P(|T| > t) in closed form, t = 3 / sqrt(2/3).
    c = (13.5 / (13.5 + 4)) ** 0.5
    assert found['p'] == pytest.approx(1 - c * (1.5 - c**2 / 2))
    assert found['seeds'] == (3, 3)


def test_norms_need_not_have_the_same_seeds():
    found = compare([1.0, 2.0], [5.0, 6.0, 7.0, 8.0])
    assert found['difference'] == pytest.approx(5) and found['seeds'] == (2, 4)


def test_what_can_be_detected_is_found_in_four_of_five_cases():
    rng = np.random.default_rng(0)
    values = [0.1, 0.2, 0.4, 0.5, 0.7]
    found = compare(values, values)
    # Many such comparisons, in which norms do differ by that.
    deviation = np.std(values, ddof=1)
    a = rng.normal(0, deviation, (20000, 5))
    b = rng.normal(found['detectable'], deviation, (20000, 5))
    power = (ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.03)
    assert compare(values, values, tests=3)['detectable'] > found['detectable']


def test_without_a_value_nothing_is_compared():
    assert compare([], [1.0]) is None and compare([1.0], []) is None


def test_one_seed_has_no_interval():
    found = compare([0.25], [0.75, 0.85])
    assert found['difference'] == pytest.approx(0.55)
    assert (found['interval'], found['p'], found['detectable']) == (None, None, None)


def test_values_without_spread_have_no_interval_unless_they_are_equal():
    found = compare([0.1, 0.1], [0.1, 0.1])
    assert (found['difference'], found['interval'], found['p']) == (0, (0, 0), 1)
    # 0.2 - 0.1 and 0.3 - 0.2 differ in the last bit, which is no spread.
    found = compare([0.2 - 0.1, 0.3 - 0.2], [0.5, 0.5])
    assert (found['interval'], found['p']) == (None, None)


def test_probabilities_are_corrected_for_their_number():
    # 0.01 x 3, 0.02 x 2, then no less than the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def found(difference, over_images=(), seeds=(5, 5), p=0.01, missing=0):
    needed = {} if over_images == () else {'over_images': over_images}
    return {
        **{'difference': difference, 'seeds': seeds, 'p': p, 'missing': missing},
        **needed,
    }


@pytest.mark.parametrize(
    ('difference', 'p', 'expected'),
    [
        (found(0.1), 0.01, 'higher'),
        (found(-0.1), 0.01, 'lower'),
        (found(0.1), 0.06, 'no significant difference'),
        (found(0.1, (0.01, 0.3)), 0.01, 'higher'),
        (found(0.1, (-0.01, 0.3)), 0.01, 'not significant over images'),
        (found(0.1, (-0.01, 0.3)), 0.06, 'no significant difference'),
        (found(0.1, None), 0.01, 'no interval over images: no verdict'),
        (found(0.1, p=None), 1.0, 'no spread over seeds: no verdict'),
        (found(0.1, missing=3), 0.01, 'runs missing: 3'),
        (found(-0.1, (-0.3, -0.1)), 0.01, 'lower'),
        (found(-0.1, (-0.3, 0.1)), 0.01, 'not significant over images'),
        (found(0.1, (0.1, 0.2), (5, 4)), 0.001, 'too few seeds for a verdict'),
        ({'missing': 0}, 1.0, 'too few seeds for a verdict'),
    ],
)
def test_verdicts(difference, p, expected):
    assert verdict(difference, p) == expected
