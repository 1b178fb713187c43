"""What a row of a sweep says."""

from collections.abc import Mapping

SAME = 'same'
# Differences are relative. Rounding grows with depth and on small maps.
TOLERANCE = {'float64': 1e-6, 'float32': 1e-2}
COMPARED = (
    *('loss', 'gradient', 'statistics'),
    *('loss_as_is', 'gradient_as_is', 'prediction'),
)


def verdict(row: Mapping) -> str:
    """``'same'``, ``'differs'``, or ``'not swept: <reason>'``."""
    if 'skipped' in row:
        return f'not swept: {row["skipped"]}'
    if 'failed' in row or max(row[key] for key in COMPARED) > TOLERANCE[row['dtype']]:
        return 'differs'
    return SAME
