"""Times what runs in turns: absolute times wander with the load, ratios hold."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

from scipy.stats import quantile_test


def time_interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each run, ``repeats`` of each in turns, after one for warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(
    times: Mapping[str, list[float]], over: str, under: str
) -> tuple[float, float, float]:
    """Median and quartiles of the ratio of two runs, turn by turn."""
    ratios = _ratios(times, over, under)
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return median, low, high


def interval(
    times: Mapping[str, list[float]], over: str, under: str
) -> tuple[float, float, float]:
    """Median of the ratio of two runs, turn by turn, and its 95% confidence interval.

    Of order statistics, whatever the distribution (SciPy's ``quantile_test``). Five turns
    and fewer give no such interval; then it is from nan to nan.
    """
    ratios = _ratios(times, over, under)
    found = quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return statistics.median(ratios), float(found.low), float(found.high)


def _ratios(times: Mapping[str, list[float]], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(times[over], times[under], strict=True)]


def total_times(cases: Iterable[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Turn by turn sums over cases: what all shapes together take."""
    cases = list(cases)
    return {
        name: [sum(turn) for turn in zip(*(case[name] for case in cases), strict=True)]
        for name in cases[0]
    }
