"""Colours of norms: the same in every figure, readable on light and dark ground."""

from collections.abc import Sequence

BASELINE = '#808080'
# Okabe and Ito's, which the colour-blind can tell apart, without black and yellow.
OTHERS = (
    *('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'),
    *('#9467bd', '#8c564b', '#17becf', '#bcbd22'),
)


def colours(norms: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A colour for each norm, ``#rrggbb``; after eleven they repeat."""
    others = [norm for norm in norms if norm != baseline]
    found = {norm: OTHERS[i % len(OTHERS)] for i, norm in enumerate(others)}
    return {norm: found.get(norm, BASELINE) for norm in norms}
