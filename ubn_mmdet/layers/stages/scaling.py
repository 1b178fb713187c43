"""Scaling: a learnt gate by the sample's own mean, divided by its initial value."""

import torch
from torch import Tensor

from ...ops import algebra
from .stage import Entry, Layer, Stage


class NormalizedScaling(Stage):
    """``s = sigmoid(w_v * GAP(xhat) + w_b) / sigmoid(1)`` (RBN, CVPR 2021, eq. 4; UBN)."""

    initial_bias = 1.0

    def entries(self) -> tuple[Entry, ...]:
        """``scaling_weight`` and ``scaling_bias``, ``(C,)``: ``w_v`` and ``w_b``."""
        return (
            Entry('scaling_weight', neutral=0.0),
            Entry('scaling_bias', neutral=self.initial_bias),
        )

    def __call__(self, layer: Layer, pooled: Tensor, raw: Tensor) -> Tensor:
        """The gate ``s``, ``(N, C)``.

        Args:
            layer: The layer that has the parameters.
            pooled: ``GAP(xhat)``, ``(N, C)``.
            raw: ``GAP(x)``, ``(N, C)``.
        """
        return algebra.scaling_gate(
            self._source(pooled, raw),
            layer.scaling_weight,
            layer.scaling_bias,
            self.initial_bias,
        )

    def fold(self, state: dict[str, Tensor], bias_is_scaled: bool) -> None:
        """A gate that does not depend on the input is a factor."""
        if state.pop('scaling_weight').any():
            raise ValueError('scaling_weight is not zero')
        zero = torch.zeros(())
        bias = state.pop('scaling_bias')
        gate = algebra.scaling_gate(zero, zero, bias, self.initial_bias)
        state['weight'] = gate * state['weight']
        if 'spatial_weight' in state:
            state['spatial_weight'] = (
                algebra.over_positions(gate) * state['spatial_weight']
            )
        if bias_is_scaled:
            state['bias'] = gate * state['bias']

    def _source(self, pooled: Tensor, raw: Tensor) -> Tensor:
        return pooled


class RawScaling(NormalizedScaling):
    """``s = sigmoid(w_v * GAP(x) + w_b) / sigmoid(-1)`` (IEBN, AAAI 2020, eq. 5)."""

    initial_bias = -1.0

    def _source(self, pooled: Tensor, raw: Tensor) -> Tensor:
        return raw
