"""Batch Renormalization's statistics: those of the batch, corrected to the running ones."""

import math

import torch
from torch import Tensor

from ..checks import check_count, check_number
from .stage import Layer
from .statistics import (
    Batch,
    BatchStatistics,
    State,
    move_running_statistics,
    running_statistics,
)


class RenormStatistics(BatchStatistics):
    """``xhat = r * (x - mu_B)/sigma_B + d``, with ``r`` and ``d`` held constant.

    ``r = sigma_B/sigma`` within ``[1/r_max, r_max]`` and ``d = (mu_B - mu)/sigma`` within
    ``[-d_max, d_max]``; the running ``mu`` and ``sigma`` are those before the batch
    (Batch Renormalization, arXiv 1702.03275, algorithm 1). Both limits start where the
    result is BatchNorm's and grow linearly with the number of batches.

    Args:
        r_max: Limit of the correction of the scale, at least 1.
        d_max: Limit of the correction of the mean, at least 0, in standard deviations.
        plain_steps: Batches normalised as by BatchNorm before the limits grow.
        r_steps: Batches until ``r_max`` is reached.
        d_steps: Batches until ``d_max`` is reached.
    """

    def __init__(
        self,
        r_max: float = 3.0,
        d_max: float = 5.0,
        plain_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
    ) -> None:
        check_number('r_max', r_max, lambda v: 1 <= v < math.inf, 'finite and >= 1')
        check_number('d_max', d_max, lambda v: 0 <= v < math.inf, 'finite and >= 0')
        check_count('plain_steps', plain_steps, least=0)
        check_count('r_steps', r_steps, least=plain_steps)
        check_count('d_steps', d_steps, least=plain_steps)
        self.r_max = r_max
        self.d_max = d_max
        self.plain_steps = plain_steps
        self.r_steps = r_steps
        self.d_steps = d_steps

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics; ``r`` and ``d``, ``(C,)`` each, of before."""
        mean, var = running_statistics(layer, batch.mean.dtype)
        std = torch.sqrt(var + layer.eps)
        r_limit = 1 + (self.r_max - 1) * self._progress(layer, self.r_steps)
        d_limit = self.d_max * self._progress(layer, self.d_steps)
        r = torch.sqrt(batch.var + layer.eps) / std
        d = (batch.mean - mean) / std
        move_running_statistics(layer, batch)
        return torch.clamp(r, 1 / r_limit, r_limit), torch.clamp(d, -d_limit, d_limit)

    def normalizer(
        self, layer: Layer, batch: Batch, state: State
    ) -> tuple[Tensor, Tensor]:
        """The batch's statistics, corrected."""
        r, d = state
        mean, inv_std = self.of_batch(layer, batch)
        inv_std = r * inv_std
        return mean - d / inv_std, inv_std

    def _progress(self, layer: Layer, steps: int) -> Tensor:
        """``()``, from 0 after ``plain_steps`` batches to 1 after ``steps``."""
        dtype = layer.running_mean.dtype
        seen = layer.num_batches_tracked - self.plain_steps
        if steps == self.plain_steps:
            return (seen >= 0).to(dtype)
        return (seen.to(dtype) / (steps - self.plain_steps)).clamp(0, 1)
