"""Centering: a learnt shift by the sample's own mean."""

from torch import Tensor

from ...ops import algebra
from .stage import Entry, Layer, Stage


class Centering(Stage):
    """``x' = x + w_m * GAP(x)`` (RBN, CVPR 2021, eq. 2; UBN, arXiv 2311.15993)."""

    def entries(self) -> tuple[Entry, ...]:
        """``centering_weight``, ``(C,)``: ``w_m``."""
        return (Entry('centering_weight', neutral=0.0),)

    def fold(self, state: dict[str, Tensor], bias_is_scaled: bool) -> None:
        """Nothing is left of a weight of zero."""
        if state.pop('centering_weight').any():
            raise ValueError('centering_weight is not zero')

    def __call__(self, layer: Layer, mean: Tensor) -> Tensor:
        """``(1 + w_m) * K``, ``(N, C)``: the means of ``x'``."""
        return algebra.center(mean, layer.centering_weight)
