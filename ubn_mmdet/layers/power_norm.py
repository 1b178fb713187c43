"""Power Normalization (PowerNorm), arXiv 2003.07845."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_count
from .pipeline import PipelineNorm, Stages
from .stages.quadratic import QuadraticStatistics
from .stages.stage import Entry, Layer
from .stages.statistics import Batch, State, all_finite, counter, may_update, overwrite


class PowerNorm(PipelineNorm, _BatchNorm):
    """Power Normalization: a running quadratic mean, in training too (2003.07845).

    ``y = weight * x / psi + bias``, ``psi^2 = running_var + eps`` as it was before the
    batch. The gradient through ``psi`` is approximated by a running average as well: the
    backward is not the derivative of the forward. Nothing is centred.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        warmup_steps: For so many batches ``psi`` is the batch's own, with its exact
            gradient. Batches are counted by ``batches_averaged``, which starts at 0 where
            BatchNorm weights are loaded.
        momentum: Step of both averages, a number; the authors' 0.1.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.
            ``track_running_stats=False`` is refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``running_gradient``, ``(C,)``, and ``batches_averaged``, ``()``. ``running_var`` is the
    running quadratic mean; ``running_mean`` stays as it is and is subtracted: 0 in a fresh
    layer, else that of the BatchNorm whose weights were loaded. Evaluation is BatchNorm's.

    With gradient scaling (AMP), ``running_gradient`` follows a change of the scale at the
    pace of ``momentum``.
    """

    def __init__(
        self,
        num_features: int,
        warmup_steps: int = 10_000,
        momentum: float = 0.1,
        **common: Any,
    ) -> None:
        if momentum is None:
            raise ValueError(
                'momentum must be within [0, 1], got None: the average of the gradient '
                'has no cumulative form'
            )
        stages = Stages(statistics=PowerStatistics(warmup_steps))
        super().__init__(num_features, stages, momentum=momentum, **common)


@dataclass(eq=False)
class PowerStatistics(QuadraticStatistics):
    """``xhat = x / psi``, and in backward ``dx = (dxhat - nu * xhat) / psi``.

    ``nu``, ``running_gradient``, then moves by a step of ``a``, the momentum:
    ``nu <- nu * (1 - a * mean(xhat^2)) + a * mean(dxhat * xhat)`` (algorithm 2).
    """

    warmup_steps: int

    def __post_init__(self) -> None:
        check_count('warmup_steps', self.warmup_steps, least=0)

    def entries(self) -> tuple[Entry, ...]:
        """``running_gradient``, ``(C,)``: ``nu``; and what counts its batches, ``()``."""
        nu = Entry('running_gradient', neutral=0.0, is_parameter=False)
        return nu, counter('batches_averaged')

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running quadratic mean.

        Returns:
            The quadratic mean that is used, ``(C,)``: the running one of before the batch,
            or the batch's own; ``()`` bool each, whether it is the running one, and
            whether the batch is fit to move an average.
        """
        square = self.square(layer, batch)
        is_valid = may_update(batch, square)
        is_warm = layer.batches_averaged >= self.warmup_steps
        layer.batches_averaged.add_(is_valid)
        used = torch.where(is_warm, layer.running_var.to(square.dtype), square)
        self.move_square(layer, square, is_valid)
        return used, is_warm, is_valid

    def averages(
        self, layer: Layer, square: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Those from before the batch."""
        used, is_warm, is_valid = state
        curvature = (used + layer.eps).reciprocal()
        respond = partial(_respond, layer, is_warm, is_valid, square * curvature)
        return curvature.sqrt(), curvature, respond


def _respond(
    layer: Layer, is_warm: Tensor, is_valid: Tensor, power: Tensor, correlation: Tensor
) -> Tensor:
    """``nu`` before the batch if it ``is_warm``, or the batch's own; moves ``nu``.

    ``power`` is ``mean(xhat^2)``, ``correlation`` is ``mean(dxhat * xhat)``, ``(C,)``.
    """
    nu = layer.running_gradient.to(correlation.dtype, copy=True)
    moved = nu + layer.momentum * (correlation - power * nu)
    overwrite(layer.running_gradient, moved, is_valid & all_finite(moved))
    return torch.where(is_warm, nu, correlation)
