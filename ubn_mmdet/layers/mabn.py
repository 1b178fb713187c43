"""Moving Average Batch Normalization (MABN), ICLR 2020."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_count, check_number
from .pipeline import PipelineNorm, Stages
from .stages.quadratic import QuadraticStatistics
from .stages.stage import Entry, Layer
from .stages.statistics import (
    Batch,
    State,
    all_finite,
    may_update,
    memory_entries,
    overwrite,
)


class CentralizedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with ``weight - mean(weight)``, the mean over inputs and kernel.

    In the place of centring what the convolution gives (MABN, ICLR 2020): the part of it
    that no norm layer can do. Parameters and checkpoints are those of ``nn.Conv2d``; in
    the toolbox: ``conv_cfg=dict(type='CentralizedConv2d')``. A norm layer after it may be
    folded into it, as into any convolution: the mean is taken for each output channel.
    """

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        return super()._conv_forward(input, centred, bias)


class MABN(PipelineNorm, _BatchNorm):
    """Moving Average Batch Normalization: averages over recent batches (ICLR 2020).

    ``y = weight * r * x / sqrt(chi + eps) + bias``. ``chi`` is the mean of ``E[x^2]`` over
    the last ``memory_size`` batches, and ``r = sqrt(chi)/sqrt(running_var)`` brings it to
    the long average. The backward uses an average over as many batches, too: it is not the
    derivative of the forward. Nothing is centred. The paper centres the weights of the
    convolution before the layer: see :class:`CentralizedConv2d`.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        memory_size: Batches that the averages are over.
        warmup_steps: For so many batches, and until the memory is full, a batch's own
            statistics are used, with their exact gradient.
        renorm_steps: For so many batches ``r`` is 1.
        r_max: ``r`` stays within ``[1/r_max, r_max]``; constant for the gradient.
        momentum: Step of ``running_var``; the authors' 0.02.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.
            ``track_running_stats=False`` is refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``square_memory`` and ``gradient_memory``, ``(C, memory_size)``, and
    ``batches_memorized``, ``()``. ``running_var`` is the average of ``chi``;
    ``running_mean`` stays as it is and is subtracted: 0 in a fresh layer, else that of the
    BatchNorm whose weights were loaded. Evaluation is BatchNorm's.

    With gradient scaling (AMP), a change of the scale reaches ``gradient_memory`` with as
    many batches' delay.
    """

    def __init__(
        self,
        num_features: int,
        memory_size: int = 16,
        warmup_steps: int = 100,
        renorm_steps: int = 1_000,
        r_max: float = 5.0,
        momentum: float | None = 0.02,
        **common: Any,
    ) -> None:
        statistics = MemoryStatistics(memory_size, warmup_steps, renorm_steps, r_max)
        super().__init__(
            num_features, Stages(statistics=statistics), momentum=momentum, **common
        )


@dataclass(eq=False)
class MemoryStatistics(QuadraticStatistics):
    """``xhat = r * x / sqrt(chi + eps)``; the gradient's statistic is an average, too.

    That statistic is ``mean(dxhat * xhat)``.
    """

    memory_size: int
    warmup_steps: int
    renorm_steps: int
    r_max: float

    def __post_init__(self) -> None:
        check_count('memory_size', self.memory_size)
        check_count('warmup_steps', self.warmup_steps, least=0)
        check_count('renorm_steps', self.renorm_steps, least=0)
        check_number(
            'r_max', self.r_max, lambda v: 1 <= v < math.inf, 'finite and >= 1'
        )

    def entries(self) -> tuple[Entry, ...]:
        """The memories, ``(C, m)`` each, and what counts them, ``()``."""
        return memory_entries(self.memory_size, 'square_memory', 'gradient_memory')

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Memorize the batch and move the long average.

        Returns:
            ``r / sqrt(chi + eps)`` and ``1 / (chi + eps)``, ``(C,)`` each; whether the
            averages are used, and whether the batch is fit for them, ``()`` bool each;
            where it is memorized, ``(m,)`` bool.
        """
        square = self.square(layer, batch)
        is_valid = may_update(batch, square)
        layer.batches_memorized.add_(is_valid)
        slots = torch.arange(self.memory_size, device=square.device)
        slot = slots == (layer.batches_memorized - 1) % self.memory_size
        overwrite(layer.square_memory, square[:, None], slot & is_valid)
        is_warm = layer.batches_memorized > max(self.memory_size, self.warmup_steps)
        average = layer.square_memory.mean(1).to(square.dtype)
        chi = torch.where(is_warm, average, square)
        curvature = (chi + layer.eps).reciprocal()
        running = layer.running_var.to(chi.dtype)
        r = torch.sqrt((chi + layer.eps) / (running + layer.eps))
        r = r.clamp(1 / self.r_max, self.r_max)
        r = torch.where(layer.batches_memorized > self.renorm_steps, r, 1.0)
        self.move_square(layer, chi, is_valid)
        return r * curvature.sqrt(), curvature, is_warm, is_valid, slot

    def averages(
        self, layer: Layer, square: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Those over the memory; the batch's gradient will enter one in backward."""
        scale, curvature, is_warm, is_valid, slot = state
        return scale, curvature, partial(_respond, layer, slot, is_valid, is_warm)


def _respond(
    layer: Layer, slot: Tensor, is_valid: Tensor, is_warm: Tensor, correlation: Tensor
) -> Tensor:
    """Memorize a batch's ``mean(dxhat * xhat)``; the average that stands in for it."""
    is_valid = is_valid & all_finite(correlation)
    overwrite(layer.gradient_memory, correlation[:, None], slot & is_valid)
    average = layer.gradient_memory.mean(1).to(correlation.dtype)
    return torch.where(is_warm, average, correlation)
