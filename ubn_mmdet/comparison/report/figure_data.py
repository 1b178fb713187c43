"""What the figures show, apart from how they are drawn: on paper or in the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...mm.condensation_file import QUANTITIES
from ..groups import file_name
from .numbers import MAIN

CURVES = {
    **{metric: (title, 'epoch') for metric, title in MAIN.items()},
    'loss': ('training loss', 'iteration'),
}
ERROR_TITLES = {
    'Cls': 'class',
    'Loc': 'place',
    'Both': 'class and place',
    'Dupe': 'duplicate',
    'Bkg': 'background',
    'Miss': 'missed',
}
MAP_TITLES = dict(
    zip(
        QUANTITIES,
        ('mean cosine', 'moving average', 'gate open', 'shift of the statistics'),
        strict=True,
    )
)


@dataclass(frozen=True)
class Band:
    """A mean over seeds with its standard deviation, along training."""

    x: list[float]
    mean: list[float]
    low: list[float] | None
    high: list[float] | None


@dataclass(frozen=True)
class Difference:
    """A norm minus the baseline's mean: the mean, each seed, and the intervals."""

    mean: float
    of_seeds: list[float]
    over_seeds: tuple[float, float] | None
    over_images: tuple[float, float] | None


def main_metrics(numbers: Mapping) -> dict[str, str]:
    """``{'bbox_mAP': 'box AP', ...}``: those that the runs have."""
    return {m: title for m, title in MAIN.items() if m in numbers['metrics']}


def bands(numbers: Mapping) -> dict[str, dict[str, Band]]:
    """For each curve that there is, the band of each norm."""
    found = {}
    for name, (_, axis) in CURVES.items():
        of_norms = {
            norm: _band(curves[name], axis)
            for norm, curves in numbers['curves'].items()
            if name in curves
        }
        if of_norms:
            found[name] = of_norms
    return found


def _band(curve: Mapping, axis: str) -> Band:
    mean, deviation = curve['mean'], curve['deviation']
    if None in deviation:
        return Band(curve[axis], mean, None, None)
    pairs = list(zip(mean, deviation, strict=True))
    low, high = [m - d for m, d in pairs], [m + d for m, d in pairs]
    return Band(curve[axis], mean, low, high)


def differences(numbers: Mapping) -> dict[str, dict[str, Difference]]:
    """For each main metric, the difference of each norm from the baseline."""
    found = {}
    for metric in main_metrics(numbers):
        means = {
            norm: about['metrics'][metric] for norm, about in numbers['norms'].items()
        }
        of_norms = {
            norm: Difference(
                compared['difference'],
                [
                    run[metric] - means[numbers['baseline']]['mean']
                    for run in numbers['runs']
                    if run['norm'] == norm and run[metric] is not None
                ],
                compared['interval'],
                compared['images'] and compared['images']['interval'],
            )
            for norm, metrics in numbers['against'].items()
            if (compared := metrics[metric])
        }
        if of_norms:
            found[metric] = of_norms
    return found


def heat_maps(numbers: Mapping) -> Iterator[tuple[str, Mapping]]:
    """Name of the figure and record, for each run with a map of condensation."""
    for record in numbers['condensation']:
        if record['map']:
            yield heat_map_name(record), record


def heat_map_name(record: Mapping) -> str:
    """The name of a run's heat map among the figures."""
    return f'condensation-{file_name(record["norm"])}-{record["seed"]}'


def later_heat_maps(numbers: Mapping) -> list[str]:
    """The names of all heat maps but that of each norm's first run."""
    first: dict[str, str] = {}
    for name, record in heat_maps(numbers):
        first.setdefault(record['norm'], name)
    return [name for name, _ in heat_maps(numbers) if name not in first.values()]
