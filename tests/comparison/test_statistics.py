"""Means, paired intervals and verdicts, against numbers worked out by hand."""

import pytest

from ubn_mmdet.comparison.statistics import paired, spread, verdict


def test_mean_and_deviation():
    found = spread([1.0, 2.0, 6.0])
    # Squares of 2, 1 and 3 over 2.
    assert (found.mean, found.count) == (3, 3)
    assert found.deviation == pytest.approx(7**0.5)


def test_one_value_has_no_deviation():
    found = spread([0.5])
    assert (found.mean, found.deviation, found.count) == (0.5, None, 1)
    assert spread([]) is None


def test_a_paired_comparison():
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 2*sqrt(3). With two
    # degrees of freedom p = 1 - t/sqrt(2 + t^2), and 95% lie within 4.302653.
    found = paired({0: 10.0, 1: 20.0, 2: 5.0}, {0: 11.0, 1: 22.0, 2: 8.0})
    t = 2 * 3**0.5
    assert found.difference == pytest.approx(2)
    assert found.interval == pytest.approx(
        (2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6
    )
    assert found.p == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    assert found.seeds == (0, 1, 2)


def test_only_common_seeds_are_paired():
    found = paired({0: 1.0, 1: 2.0, 3: 100.0}, {3: 101.0, 1: 2.5, 7: 9.0})
    assert found.seeds == (1, 3)
    assert found.difference == pytest.approx(0.75)


def test_the_order_of_the_seeds_does_not_matter():
    a = paired({0: 1.0, 1: 2.0, 2: 4.0}, {0: 3.0, 1: 3.0, 2: 9.0})
    b = paired({2: 4.0, 0: 1.0, 1: 2.0}, {1: 3.0, 2: 9.0, 0: 3.0})
    assert a == b


def test_without_a_common_seed_nothing_is_compared():
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval():
    found = paired({0: 0.25}, {0: 0.75})
    assert (found.difference, found.interval, found.p) == (0.5, None, None)


def test_one_equal_seed_proves_no_equality():
    assert paired({0: 0.25}, {0: 0.25}).interval is None


def test_equal_values_differ_by_nothing():
    found = paired({0: 0.1, 1: 0.2}, {0: 0.1, 1: 0.2})
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)


def test_equal_differences_have_no_interval():
    # 0.2 - 0.1 and 0.4 - 0.3 differ in the last bit, which is no spread.
    found = paired({0: 0.1, 1: 0.3, 2: 0.5}, {0: 0.2, 1: 0.4, 2: 0.6})
    assert found.difference == pytest.approx(0.1)
    assert (found.interval, found.p) == (None, None)


@pytest.mark.parametrize(
    ('over_seeds', 'over_images', 'expected'),
    [
        ((0.1, 0.2), None, 'higher'),
        ((-0.2, -0.1), None, 'lower'),
        ((-0.1, 0.2), None, 'no significant difference'),
        ((0.0, 0.0), None, 'no significant difference'),
        (None, None, 'no significant difference'),
        ((0.1, 0.2), (0.01, 0.3), 'higher'),
        ((0.1, 0.2), (-0.01, 0.3), 'no significant difference'),
        ((-0.2, -0.1), (-0.3, -0.1), 'lower'),
        ((-0.2, -0.1), (0.1, 0.3), 'no significant difference'),
        (None, (0.1, 0.2), 'no significant difference'),  # models differ, norms may not
    ],
)
def test_verdicts(over_seeds, over_images, expected):
    assert verdict(over_seeds, over_images) == expected
