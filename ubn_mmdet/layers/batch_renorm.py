"""Batch Renormalization, arXiv 1702.03275."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_count, check_number
from .pipeline import PipelineNorm, Stages
from .stages.stage import Layer
from .stages.statistics import Batch, BatchStatistics, State, running_statistics


class BatchRenorm(PipelineNorm, _BatchNorm):
    """BatchNorm that in training, too, normalises about as in evaluation (1702.03275).

    ``y = weight * (r * xhat + d) + bias``, with ``xhat`` as in BatchNorm. ``r`` and ``d``
    turn the batch's statistics into the running ones, as far as their limits allow. They
    are constants for the gradient.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        r_max: ``r = sigma_B/sigma`` stays within ``[1/r_max, r_max]``.
        d_max: ``d = (mu_B - mu)/sigma`` stays within ``[-d_max, d_max]``.
        plain_steps: For so many batches the layer is BatchNorm. Then the limits grow
            linearly from 1 and 0 to ``r_max`` and ``d_max``.
        r_steps: Batches until the limit of ``r`` is ``r_max``, counted from the start.
        d_steps: Batches until the limit of ``d`` is ``d_max``, likewise. Batches are
            counted by ``num_batches_tracked``.
        momentum: Step of the running statistics; the paper's 0.01.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.
            ``track_running_stats=False`` is refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each; buffers are BatchNorm's. A fresh
    layer is exactly BatchNorm, and checkpoints are BatchNorm's.
    """

    def __init__(
        self,
        num_features: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        plain_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
        momentum: float | None = 0.01,
        **common: Any,
    ) -> None:
        statistics = RenormStatistics(r_max, d_max, plain_steps, r_steps, d_steps)
        super().__init__(
            num_features, Stages(statistics=statistics), momentum=momentum, **common
        )


@dataclass(eq=False)
class RenormStatistics(BatchStatistics):
    """``mu_B`` and ``sigma_B``, corrected to the running ones of before (algorithm 1)."""

    needs_tracking = True

    r_max: float
    d_max: float
    plain_steps: int
    r_steps: int
    d_steps: int

    def __post_init__(self) -> None:
        r_max, d_max = self.r_max, self.d_max
        check_number('r_max', r_max, lambda v: 1 <= v < math.inf, 'finite and >= 1')
        check_number('d_max', d_max, lambda v: 0 <= v < math.inf, 'finite and >= 0')
        check_count('plain_steps', self.plain_steps, least=0)
        check_count('r_steps', self.r_steps, least=self.plain_steps)
        check_count('d_steps', self.d_steps, least=self.plain_steps)

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics; ``r`` and ``d``, ``(C,)`` each, of before."""
        mean, var = running_statistics(layer, batch.mean.dtype)
        std = torch.sqrt(var + layer.eps)
        r_limit = 1 + (self.r_max - 1) * self._progress(layer, self.r_steps)
        d_limit = self.d_max * self._progress(layer, self.d_steps)
        r = torch.sqrt(batch.var + layer.eps) / std
        d = (batch.mean - mean) / std
        super().advance(layer, batch)
        return torch.clamp(r, 1 / r_limit, r_limit), torch.clamp(d, -d_limit, d_limit)

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """The batch's statistics, corrected."""
        mean, inv_std = super().normalizer(layer, batch, state)
        if state is None:
            return mean, inv_std
        r, d = state
        inv_std = r * inv_std
        return mean - d / inv_std, inv_std

    def _progress(self, layer: Layer, steps: int) -> Tensor:
        """``()``, from 0 after ``plain_steps`` batches to 1 after ``steps``."""
        dtype = layer.running_mean.dtype
        seen = layer.num_batches_tracked - self.plain_steps
        if steps == self.plain_steps:
            return (seen >= 0).to(dtype)
        return (seen.to(dtype) / (steps - self.plain_steps)).clamp(0, 1)
