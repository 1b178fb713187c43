"""What a row of a sweep says."""

from collections.abc import Mapping

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
