"""Results as Markdown tables."""

import statistics
from collections.abc import Mapping

from ubn_mmdet.markdown import markdown_table

from .timing import Times, ratio


def ratio_table(
    cases: Mapping[str, Times], ratios: tuple[tuple[str, str], ...], base: str
) -> str:
    """A row for each case: the ratios of steps, and the milliseconds of ``base``."""
    header = ['', *(f'{over} / {under}' for over, under in ratios), f'{base}, ms']
    rows = (
        [
            case,
            *(ratio(times, *pair) for pair in ratios),
            f'{1e3 * statistics.median(times[base]):.2f}',
        ]
        for case, times in cases.items()
    )
    return markdown_table(header, rows)


def value_table(title: str, cases: Mapping[str, Mapping[str, object]]) -> str:
    """A row for each case, a column for each layer."""
    names = list(next(iter(cases.values())))
    rows = ([case, *(values[n] for n in names)] for case, values in cases.items())
    return markdown_table([title, *names], rows)
