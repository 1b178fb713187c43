"""Measurements as Markdown tables."""

import statistics
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..markdown import markdown_table
from .layers import COMPILED_RATIOS, MODES, R50_FPN, RATIOS, STEP_RATIOS
from .operations import PHASES
from .timing import interval, ratio, total_times

Cases = Mapping[str, Mapping[str, list[float]]]


class Goal(NamedTuple):
    """What a ratio is to be at most.

    Attributes:
        text: In words.
        mode: One of ``MODES``.
        case: The shape's name.
        ratio: One of ``RATIOS``.
        bound: The goal.
    """

    text: str
    mode: str
    case: str
    ratio: str
    bound: float


ALL_SHAPES = 'all shapes of R50-FPN'
K1, K3 = 'UBN k=1 / BatchNorm', 'UBN k=3 / BatchNorm + depthwise 3x3'
STEP = 'forward + backward'
LAYER3 = 'layer3 (2, 256, 50, 84)'
GOALS = [
    Goal('k = 1, a training step', STEP, ALL_SHAPES, K1, 1.3),
    Goal('k = 3, a training step', STEP, ALL_SHAPES, K3, 1.2),
    Goal('k = 1, evaluation', 'evaluation', ALL_SHAPES, K1, 1.1),
    Goal('k = 3, evaluation', 'evaluation', ALL_SHAPES, K3, 1.1),
    Goal('k = 1, a training step', STEP, LAYER3, K1, 1.15),
    Goal('k = 3, a training step', STEP, LAYER3, K3, 1.25),
    Goal('k = 1, a training step', STEP, 'box head (16, 256, 14, 14)', K1, 1.3),
    Goal('k = 1, a training step', STEP, 'demo layer4 (8, 512, 5, 5)', K1, 2.5),
]


def tables(content: Mapping) -> dict[str, str]:
    """All that a measurement of ``tools/benchmark_layer.py`` tells, by title."""
    return {
        'machine': describe(content['machine']),
        **_goals(content),
        **dict(_layer_tables(content)),
        **dict(_step_tables(content.get('training step', {}))),
    }


def sync_tables(content: Mapping) -> dict[str, str]:
    """All that a measurement of ``tools/sync_cost.py`` tells, by title."""
    layers = {'merged / local': ('merged', 'local')}
    merges = {'reduced / gathered': ('reduced', 'gathered')}
    return {
        'machine': describe(content['machine']),
        'layer': ratio_table(content['layer'], layers),
        'merge': ratio_table(content['merge'], merges),
    }


FOLDED = ', folded'  # behind a norm's name


def inference_tables(content: Mapping) -> dict[str, str]:
    """All that a measurement of ``tools/benchmark_inference.py`` tells, by title.

    Each norm over BatchNorm, as trained, and both of them folded.
    """
    cases = content['inference']
    names = list(next(iter(cases.values())))
    ratios = {
        f'{name} / BN': (name, 'BN')
        for name in names
        if name != 'BN' and not name.endswith(FOLDED)
    }
    for name in names:
        if name.endswith(FOLDED) and name != f'BN{FOLDED}':
            title = f'{name.removesuffix(FOLDED)} / BN, both folded'
            ratios[title] = name, f'BN{FOLDED}'
    return {
        'machine': describe(content['machine']),
        'ratios': ratio_table(cases, ratios),
        'ms': median_table(cases),
    }


def describe(machine: Mapping[str, object]) -> str:
    """What the figures were measured on, a sentence."""
    listed = ', '.join(f'{key} {value}' for key, value in machine.items())
    return f'Measured on: {listed}.'


def report(content: Mapping) -> str:
    """All tables, each below its title."""
    named = tables(content)
    machine = named.pop('machine')
    parts = [f'### {title.capitalize()}\n\n{table}' for title, table in named.items()]
    return '\n\n'.join([machine, *parts]) + '\n'


def ratio_table(cases: Cases, ratios: Mapping[str, tuple[str, str]]) -> str:
    """A row a case: the median ratio of turns, with its quartiles."""
    rows = [
        [name, *(_with_bounds(ratio(times, *pair)) for pair in ratios.values())]
        for name, times in cases.items()
    ]
    return markdown_table(['', *ratios], rows)


def median_table(cases: Cases) -> str:
    """A row a case: median milliseconds."""
    columns = list(next(iter(cases.values())))
    rows = [
        [name, *(f'{1e3 * statistics.median(times[c]):.2f}' for c in columns)]
        for name, times in cases.items()
    ]
    return markdown_table(['ms', *columns], rows)


def _goals(content: Mapping) -> dict[str, str]:
    """Each goal whose case was measured, and whether it is reached."""
    rows = []
    for goal in GOALS:
        cases = _with_total(content.get(goal.mode, {}))
        if goal.case in cases:
            found = ratio(cases[goal.case], *RATIOS[goal.ratio])
            reached = 'yes' if found[0] <= goal.bound else '**no**'
            what = f'{goal.text}: {goal.ratio}'
            rows.append(
                [what, goal.case, f'{goal.bound:g}', _with_bounds(found), reached]
            )
    if not rows:
        return {}
    header = ['goal', 'input', 'at most', 'ratio', 'reached']
    return {'goals': markdown_table(header, rows, words=2)}


def _with_total(cases: Cases) -> dict[str, Mapping[str, list[float]]]:
    """The cases, and, if all of R50-FPN's are there, all of these together."""
    r50 = [times for name, times in cases.items() if name.split(' (')[0] in R50_FPN]
    if len(r50) < len(R50_FPN):
        return dict(cases)
    return {**cases, ALL_SHAPES: total_times(r50)}


def _layer_tables(content: Mapping) -> Iterator[tuple[str, str]]:
    for mode in MODES:
        if cases := content.get(mode):
            yield mode, ratio_table(_with_total(cases), RATIOS)
            yield f'{mode}, ms', median_table(cases)
    if cases := content.get('compiled'):
        yield 'compiled', ratio_table(cases, COMPILED_RATIOS)
    if cases := content.get('first call'):
        yield 'first call, ms', median_table(cases)
    if cases := content.get('saved bytes'):
        yield 'saved for backward', _bytes_table(cases)
    for name, counts in content.get('operations dispatched', {}).items():
        yield f'operations dispatched, {name}', _counts_table(counts)
    for name, case in content.get('operations', {}).items():
        yield f'operations, {name}', _operations_table(case)


def _step_tables(
    detectors: Mapping[str, Mapping[str, Mapping[str, list[float]]]],
) -> Iterator[tuple[str, str]]:
    """A detector's parts as rows; the median ratio of turns with its 95% interval."""
    parts = {
        f'{detector}: {part}': times
        for detector, of_parts in detectors.items()
        for part, times in of_parts.items()
    }
    if not parts:
        return
    rows = [
        [
            name,
            len(next(iter(times.values()))),
            *(_with_bounds(interval(times, *pair)) for pair in STEP_RATIOS.values()),
        ]
        for name, times in parts.items()
    ]
    yield 'training step', markdown_table(['', 'turns', *STEP_RATIOS], rows)
    yield 'training step, ms', median_table(parts)


def _with_bounds(found: tuple[float, float, float]) -> str:
    middle, low, high = found
    return f'{middle:.2f} ({low:.2f}–{high:.2f})'


def _bytes_table(cases: Mapping[str, Mapping[str, int]]) -> str:
    columns = list(next(iter(cases.values())))
    rows = [
        [name, *(f'{sizes[c]:,}' for c in columns)] for name, sizes in cases.items()
    ]
    return markdown_table(['', *columns], rows)


def _counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    rows = [[name, *(of[phase] for phase in PHASES)] for name, of in counts.items()]
    return markdown_table(['', *PHASES], rows)


def _operations_table(case: Mapping[str, Mapping[str, float]], shown: int = 7) -> str:
    rows = []
    for name, times in case.items():
        ordered = sorted(times.items(), key=lambda item: -item[1])
        first = ', '.join(f'`{op}` {ms:.2f}' for op, ms in ordered[:shown])
        rows.append([name, first, f'{sum(ms for _, ms in ordered[shown:]):.2f}'])
    header = ['layer', 'most expensive operations, ms', 'the rest']
    return markdown_table(header, rows, words=2)
