"""PowerNorm's statistics: a running quadratic mean, and a running gradient."""

from functools import partial

import torch
from torch import Tensor

from ..checks import check_count
from .quadratic import QuadraticStatistics, scale_with_gradient
from .stage import Entry, Layer
from .statistics import Batch, State, all_finite


class PowerStatistics(QuadraticStatistics):
    """``xhat = x / psi``, ``psi^2`` the running mean of ``E[x^2]`` before the batch.

    In backward, ``dx = (dxhat - nu * xhat) / psi`` with the running ``nu``, which then
    moves: ``nu <- nu * (1 - a * mean(xhat^2)) + a * mean(dxhat * xhat)``, ``a`` the
    momentum (PowerNorm, arXiv 2003.07845, algorithm 2).

    Args:
        warmup_steps: For so many batches the batch's own quadratic mean is used, with its
            exact gradient; the averages move.
    """

    def __init__(self, warmup_steps: int = 10_000) -> None:
        check_count('warmup_steps', warmup_steps, least=0)
        self.warmup_steps = warmup_steps

    def entries(self) -> tuple[Entry, ...]:
        """``running_gradient``, ``(C,)``: ``nu``."""
        return (Entry('running_gradient', neutral=0.0, is_parameter=False),)

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running quadratic mean.

        Returns:
            The quadratic mean that is used, ``(C,)``: the running one of before the batch,
            or the batch's own; ``()`` bool each, whether it is the running one, and
            whether the batch is fit to move an average.
        """
        square = self.square(layer, batch)
        is_valid = self.is_valid(layer, square, batch)
        is_warm = layer.num_batches_tracked >= self.warmup_steps
        used = torch.where(is_warm, layer.running_var.to(square.dtype), square)
        self.move_square(layer, square, is_valid)
        return used, is_warm, is_valid

    def normalizer(
        self, layer: Layer, batch: Batch, state: State
    ) -> tuple[Tensor, Tensor]:
        """The running quadratic mean of before the batch."""
        used, is_warm, is_valid = state
        square = self.square(layer, batch)
        curvature = (used + layer.eps).reciprocal()
        power = square.detach() * curvature
        respond = partial(self._respond, layer, is_warm, is_valid, power)
        inv_std = scale_with_gradient(
            square, curvature.sqrt(), curvature, batch, respond
        )
        return self.pivot(layer, batch), inv_std

    def _respond(
        self,
        layer: Layer,
        is_warm: Tensor,
        is_valid: Tensor,
        power: Tensor,
        correlation: Tensor,
    ) -> Tensor:
        """``nu`` before the batch, or the batch's own; moves ``nu``.

        Args:
            layer: The layer that has the state.
            is_warm: Whether ``nu`` is used.
            is_valid: Whether the batch is fit to move it.
            power: ``mean(xhat^2)``, ``(C,)``.
            correlation: ``mean(dxhat * xhat)``, ``(C,)``.
        """
        nu = layer.running_gradient.to(correlation.dtype, copy=True)
        moved = nu + layer.momentum * (correlation - power * nu)
        buffer = layer.running_gradient
        moved = moved.to(buffer.dtype)
        is_valid = is_valid & all_finite(moved)
        buffer.copy_(torch.where(is_valid, moved, buffer))
        return torch.where(is_warm, nu, correlation)
