"""The table of a sweep, in a Markdown page."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...files import write_whole
from ...markdown import fill_tables, markdown_table
from .verdict import ROUNDING, SAME, verdict

HEADER = (
    *('folder', 'config', 'swapped', 'kept', 'frozen', 'fixed', 'precision'),
    *('loss', 'gradient', 'statistics', 'prediction', 'result'),
)


def write_table(results: Path, page: Path) -> None:
    """Fill the places ``sweep: summary``, ``sweep`` and ``sweep: not swept``.

    Args:
        results: Json lines of :func:`.run.sweep`.
        page: Markdown with these places (:func:`ubn_mmdet.markdown.fill_tables`).
    """
    record, *rows = map(json.loads, results.read_text().splitlines())
    latest = {row['family']: row for row in rows}
    page_text = fill_tables(page.read_text(), tables(record, latest.values()))
    write_whole(page, page_text.encode())


def tables(record: Mapping, rows: Iterable[Mapping]) -> dict[str, str]:
    """The three by name."""
    rows = sorted(rows, key=lambda row: row['family'])
    swept = [row for row in rows if 'skipped' not in row]
    verdicts = [verdict(row) for row in swept]
    versions = ', '.join(
        f'{name} {record[name]}' for name in ('mmdet', 'mmcv', 'torch')
    )
    return {
        'sweep: summary': (
            f'{verdicts.count(SAME)} of the {len(swept)} detectors that were swept are '
            f'the same, {verdicts.count(ROUNDING)} differ by rounding ({versions}).'
        ),
        'sweep': markdown_table(HEADER, map(_cells, swept), words=2),
        'sweep: not swept': markdown_table(
            ('reason', 'folders'), _reasons(row for row in rows if 'skipped' in row), 2
        ),
    }


def _cells(row: Mapping) -> list[object]:
    first = [row['family'], row['config'].removesuffix('.py')]
    if 'failed' in row:
        return [*first, *[''] * 9, row['failed']]
    counts = [row[key] for key in ('swapped', 'kept', 'frozen', 'fixed')]
    worst = [
        max(row['loss'], row['loss_as_is']),
        max(row['gradient'], row['gradient_as_is']),
        row['statistics'],
        row['prediction'],
    ]
    differences = [f'{value:.0e}' if value else '0' for value in worst]
    return [*first, *counts, row['dtype'], *differences, verdict(row)]


def _reasons(rows: Iterable[Mapping]) -> list[tuple[str, str]]:
    """Reasons, each with the folders that it holds for."""
    folders: dict[str, list[str]] = {}
    for row in rows:
        folders.setdefault(row['skipped'], []).append(row['family'])
    return [(reason, ', '.join(names)) for reason, names in sorted(folders.items())]
