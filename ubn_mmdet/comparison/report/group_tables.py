"""The tables of a group of runs, from its numbers (``numbers_of``)."""

from collections.abc import Iterator, Mapping

from ...markdown import markdown_table
from ..bootstrap import ERRORS
from .coco_table import COLUMNS
from .figure_data import ERROR_TITLES, main_metrics
from .numbers import ACCURACIES, KINDS, MAIN, OVER_EPOCHS
from .text import (
    DASH,
    interval,
    mean_and_deviation,
    number,
    probability,
    signed,
    significant_digits,
)

OVER_EPOCHS_TITLE = 'AP over epochs'
TITLES = {name: title for title, name in COLUMNS.items()} | {
    OVER_EPOCHS: OVER_EPOCHS_TITLE
}


def _by_kind(numbers: Mapping) -> Iterator[tuple[str, list[str], list[str]]]:
    """``('box', ['bbox_mAP', ...], ['AP', ...])``."""
    for kind, title in KINDS.items():
        metrics = [m for m in numbers['metrics'] if m.startswith(f'{kind}_')]
        if metrics:
            yield title, metrics, [TITLES[m.removeprefix(f'{kind}_')] for m in metrics]
    if accuracies := [m for m in numbers['metrics'] if m in ACCURACIES]:
        yield 'accuracy', accuracies, [ACCURACIES[m] for m in accuracies]


def spreads(numbers: Mapping) -> Iterator[str]:
    """Mean and deviation of each norm: a table for boxes, one for masks."""
    for kind, metrics, titles in _by_kind(numbers):
        rows = [
            [
                norm,
                _seeds(found),
                *(mean_and_deviation(found['metrics'][m]) for m in metrics),
            ]
            for norm, found in numbers['norms'].items()
        ]
        yield markdown_table([kind, 'seeds', *titles], rows)


def _seeds(found: Mapping) -> str:
    """``5``; ``5, 2 diverged``."""
    diverged = len(found['diverged'])
    count = len(found['seeds']) + diverged
    return f'{count}, {diverged} diverged' if diverged else str(count)


def primary(numbers: Mapping) -> str:
    """The contrasts that were named beforehand, with their verdicts."""
    rows = []
    for contrast in numbers['primary']:
        seeds = DASH
        if 'seeds' in contrast:
            seeds = ' and '.join(
                f'{count} ({diverged} diverged)' if diverged else str(count)
                for count, diverged in zip(
                    contrast['seeds'], contrast['diverged'], strict=True
                )
            )
        rows.append(
            [
                f'{contrast["norm"]} against {contrast["baseline"]}',
                MAIN[contrast['metric']],
                contrast['verdict'],
                signed(contrast.get('difference')),
                interval(contrast.get('interval')),
                probability(contrast.get('p')),
                probability(contrast['holm']),
                number(contrast.get('detectable')),
                seeds,
                interval(contrast['images'] and contrast['images']['interval']),
            ]
        )
    header = ['contrast', 'metric', 'verdict', 'difference', '95% over seeds', 'p']
    header += ['Holm', 'detectable', 'seeds', '95% over images']
    return markdown_table(header, rows, words=3)


def against(numbers: Mapping) -> str:
    """The comparison of AP with the baseline, with all intervals."""
    rows = [
        [
            norm,
            label,
            signed(found['difference']),
            interval(found['interval']),
            probability(found['p']),
            probability(found.get('q')),
            number(found['detectable']),
            ' and '.join(map(str, found['seeds'])),
            interval(found['images'] and found['images']['interval']),
        ]
        for norm, compared in numbers['against'].items()
        for metric, label in main_metrics(numbers).items()
        if (found := compared[metric])
    ]
    header = ['norm', 'metric', 'difference', '95% over seeds', 'p', 'q', 'detectable']
    return markdown_table([*header, 'seeds', '95% over images'], rows, words=2)


def every_metric(numbers: Mapping) -> Iterator[str]:
    """The differences of every metric: a table for boxes, one for masks."""
    for kind, metrics, titles in _by_kind(numbers):
        rows = [
            [norm, *(_difference(compared[m], with_interval=True) for m in metrics)]
            for norm, compared in numbers['against'].items()
        ]
        yield markdown_table([kind, *titles], rows)


def pairs(numbers: Mapping) -> Iterator[str]:
    """Every norm against every other, in AP: a table for boxes, one for masks."""
    for metric, label in main_metrics(numbers).items():
        rows = [
            [a, *('' if a == b else _difference(row[b]) for b in numbers['norms'])]
            for a, row in numbers['pairs'][metric].items()
        ]
        yield markdown_table([label, *numbers['norms']], rows)


def _difference(found: Mapping | None, with_interval: bool = False) -> str:
    if found is None:
        return DASH
    text = signed(found['difference'])
    if with_interval and found['interval']:
        text += f' ({interval(found["interval"])})'
    return text


def costs(numbers: Mapping) -> str:
    """Time and memory, beside the baseline's."""
    norms = numbers['norms']
    base = norms.get(numbers['baseline'], {}).get('costs', {})

    def ratio(found: Mapping, key: str) -> str:
        if not (found[key] and base.get(key)):
            return DASH
        return f'{found[key]["mean"] / base[key]["mean"]:.2f}'

    rows = []
    for norm, settings in norms.items():
        found = settings['costs']
        mean = {key: cost and cost['mean'] for key, cost in found.items()}
        deviation = (found['seconds_per_step'] or {}).get('deviation')
        step = significant_digits(mean['seconds_per_step'])
        rows.append(
            [
                norm,
                f'{step} ± {significant_digits(deviation, 2)}'
                if deviation is not None
                else step,
                ratio(found, 'seconds_per_step'),
                significant_digits(mean['peak_memory_mb']),
                ratio(found, 'peak_memory_mb'),
                significant_digits(mean['seconds'] and mean['seconds'] / 60),
                DASH if mean['parameters'] is None else f'{mean["parameters"]:,.0f}',
            ]
        )
    times = f'times {numbers["baseline"] or "the baseline"}'
    header = ['norm', 'seconds a step', times, 'peak memory, MB', times]
    return markdown_table([*header, 'minutes a run', 'parameters'], rows)


def errors(numbers: Mapping) -> Iterator[str]:
    """What each kind of error costs: a table for boxes, one for masks."""
    for kind, of_norms in numbers['errors'].items():
        rows = [
            [norm, *(mean_and_deviation(of_norms[norm][e]) for e in ERRORS)]
            for norm in numbers['norms']
            if norm in of_norms
        ]
        yield markdown_table([KINDS[kind], *ERROR_TITLES.values()], rows)


def condensation(numbers: Mapping) -> str:
    """What each run recorded of condensation, in a few numbers."""
    keys = {
        'mean_condensation': 'mean cosine',
        'lowest_condensation': 'lowest',
        'highest_condensation': 'highest',
        'lowest_average': 'lowest average',
        'closed': 'gate closed',
        'mean_shift': 'mean shift',
    }
    rows = [
        [run['norm'], run['seed'], *(number(run['summary'][key]) for key in keys)]
        for run in numbers['condensation']
    ]
    return markdown_table(['norm', 'seed', *keys.values()], rows)


def runs(numbers: Mapping) -> Iterator[str]:
    """Every finished run: a table for boxes, one for masks."""
    for kind, metrics, titles in _by_kind(numbers):
        rows = [
            [
                run['norm'],
                run['seed'],
                *(number(run[m]) for m in metrics),
                significant_digits(run['seconds_per_step']),
                significant_digits(run['peak_memory_mb']),
            ]
            for run in numbers['runs']
        ]
        header = [kind, 'seed', *titles, 'seconds a step', 'peak memory, MB']
        yield markdown_table(header, rows)


def broken(numbers: Mapping) -> str:
    """The runs that diverged or failed."""
    rows = [
        [run['norm'], run['seed'], run['status'], run['error'] or '']
        for run in numbers['broken']
    ]
    return markdown_table(['norm', 'seed', 'what', 'why'], rows, words=4)
