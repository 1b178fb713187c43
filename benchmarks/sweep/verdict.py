"""What the results of a sweep say, one by one and as tables."""

from collections.abc import Mapping
from typing import Any

from ubn_mmdet.markdown import markdown_table

SAME = 'same'
ROUNDING = 'rounding'
DIFFERS = 'differs'
# Differences are relative. Rounding grows with depth and on small maps.
TOLERANCE = {'float64': 1e-6, 'float32': 1e-2}
# Over the effect of one unit in the last place. Two ways of computing a norm layer are
# further apart: 1e-12 and 3e-14 in the gradients of a RetinaNet.
AMPLIFIED = 100
COMPARED = (
    *('loss', 'gradient', 'statistics'),
    *('loss_as_is', 'gradient_as_is', 'prediction'),
)


def verdict(row: Mapping) -> str:
    """``'same'``, ``'rounding'``, ``'differs'``, or ``'not swept: <reason>'``.

    Rounding: where more than the tolerance is between the two, BatchNorm with its last
    digits changed is about as far from itself.
    """
    if 'skipped' in row:
        return f'not swept: {row["skipped"]}'
    if 'failed' in row:
        return DIFFERS
    large = [key for key in COMPARED if row[key] > TOLERANCE[row['dtype']]]
    if not large:
        return SAME
    rounding = row.get('rounding', dict.fromkeys(COMPARED, 0))
    amplified = all(row[key] <= AMPLIFIED * rounding[key] for key in large)
    return ROUNDING if amplified else DIFFERS


def tables(record: Mapping[str, str], rows: Mapping[str, Mapping]) -> dict[str, str]:
    """Of a sweep's record and rows by folder: a summary, the table, and what is missing."""
    swept = {name: row for name, row in sorted(rows.items()) if 'skipped' not in row}
    reasons: dict[str, list[str]] = {}
    for name in sorted(rows.keys() - swept.keys()):
        reasons.setdefault(rows[name]['skipped'], []).append(name)
    found = [verdict(row) for row in swept.values()]
    versions = ', '.join(
        f'{name} {record[name]}' for name in ('mmdet', 'mmcv', 'torch')
    )
    header = (
        *('folder', 'config', 'swapped', 'kept', 'precision'),
        *('loss', 'gradient', 'statistics', 'prediction', 'result'),
    )
    return {
        'summary': (
            f'{found.count(SAME)} of the {len(swept)} detectors that were swept are '
            f'the same, {found.count(ROUNDING)} differ by rounding ({versions}).'
        ),
        'detectors': markdown_table(
            header, ([name, *_cells(row)] for name, row in swept.items()), words=2
        ),
        'not swept': markdown_table(
            ('reason', 'folders'),
            ((reason, ', '.join(names)) for reason, names in sorted(reasons.items())),
            words=2,
        ),
    }


def _cells(row: Mapping[str, Any]) -> list[object]:
    config = row['config'].removesuffix('.py')
    if 'failed' in row:
        return [config, *[''] * 7, row['failed']]
    worst = (
        max(row['loss'], row['loss_as_is']),
        max(row['gradient'], row['gradient_as_is']),
        row['statistics'],
        row['prediction'],
    )
    differences = (f'{value:.0e}' if value else '0' for value in worst)
    counts = row['swapped'], row['kept'], row['dtype']
    return [config, *counts, *differences, verdict(row)]
