"""Measurements as Markdown tables."""

import statistics
from collections.abc import Iterator, Mapping

from ..markdown import markdown_table
from .layers import MODES, R50_FPN, RATIOS, STEP_RATIOS
from .timing import interval, ratio, total_times

Cases = Mapping[str, Mapping[str, list[float]]]


def tables(content: Mapping) -> dict[str, str]:
    """All that a measurement of ``tools/benchmark_layer.py`` tells, by title."""
    return {
        'machine': describe(content['machine']),
        **dict(_layer_tables(content)),
        **dict(_step_tables(content.get('training step', {}))),
    }


def describe(machine: Mapping[str, str]) -> str:
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


def _layer_tables(content: Mapping) -> Iterator[tuple[str, str]]:
    for mode in MODES:
        if cases := content.get(mode):
            r50 = [
                times for name, times in cases.items() if name.split(' (')[0] in R50_FPN
            ]
            all_cases = dict(cases)
            if len(r50) == len(R50_FPN):
                all_cases['all shapes of R50-FPN'] = total_times(r50)
            yield mode, ratio_table(all_cases, RATIOS)
            yield f'{mode}, ms', median_table(cases)
    if cases := content.get('saved bytes'):
        yield 'saved for backward', _bytes_table(cases)
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


def _operations_table(case: Mapping[str, Mapping[str, float]], shown: int = 7) -> str:
    rows = []
    for name, times in case.items():
        ordered = sorted(times.items(), key=lambda item: -item[1])
        first = ', '.join(f'`{op}` {ms:.2f}' for op, ms in ordered[:shown])
        rows.append([name, first, f'{sum(ms for _, ms in ordered[shown:]):.2f}'])
    header = ['layer', 'most expensive operations, ms', 'the rest']
    return markdown_table(header, rows, words=2)
