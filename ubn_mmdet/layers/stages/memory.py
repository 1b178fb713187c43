"""MABN's statistics: averages over the last batches, forward and backward."""

import math
from functools import partial

import torch
from torch import Tensor

from ..checks import check_count, check_number
from .quadratic import QuadraticStatistics, scale_with_gradient
from .stage import Entry, Layer
from .statistics import Batch, State, all_finite


class MemoryStatistics(QuadraticStatistics):
    """``xhat = r * x / sqrt(chi + eps)``, ``chi`` the mean over recent batches' ``E[x^2]``.

    So is the gradient's statistic ``mean(dxhat * xhat)``. ``r`` is the ratio of
    ``sqrt(chi)`` and ``sqrt(running_var)``, clipped and held constant (MABN, ICLR 2020).

    Args:
        memory_size: Batches ``m`` to average over.
        warmup_steps: For so many batches, and until the memory is full, the batch's own
            statistics are used.
        renorm_steps: For so many batches ``r`` is 1.
        r_max: ``r`` stays within ``[1/r_max, r_max]``.
    """

    def __init__(
        self,
        memory_size: int = 16,
        warmup_steps: int = 100,
        renorm_steps: int = 1_000,
        r_max: float = 5.0,
    ) -> None:
        check_count('memory_size', memory_size)
        check_count('warmup_steps', warmup_steps, least=0)
        check_count('renorm_steps', renorm_steps, least=0)
        check_number('r_max', r_max, lambda v: 1 <= v < math.inf, 'finite and >= 1')
        self.memory_size = memory_size
        self.warmup_steps = warmup_steps
        self.renorm_steps = renorm_steps
        self.r_max = r_max

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
        is_valid = self.is_valid(layer, square, batch)
        layer.batches_memorized.add_(is_valid)
        slots = torch.arange(self.memory_size, device=square.device)
        slot = slots == (layer.batches_memorized - 1) % self.memory_size
        memorize(layer.square_memory, square, slot & is_valid)
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

    def normalizer(
        self, layer: Layer, batch: Batch, state: State
    ) -> tuple[Tensor, Tensor]:
        """The averages; the batch's gradient will enter one in backward."""
        scale, curvature, is_warm, is_valid, slot = state
        square = self.square(layer, batch)
        respond = partial(self._respond, layer, slot, is_valid, is_warm, square.dtype)
        inv_std = scale_with_gradient(square, scale, curvature, batch, respond)
        return self.pivot(layer, batch), inv_std

    def _respond(
        self,
        layer: Layer,
        slot: Tensor,
        is_valid: Tensor,
        is_warm: Tensor,
        dtype: torch.dtype,
        correlation: Tensor,
    ) -> Tensor:
        """Memorize a batch's ``mean(dxhat * xhat)``; the average that stands in for it."""
        is_valid = is_valid & all_finite(correlation.to(layer.gradient_memory.dtype))
        memorize(layer.gradient_memory, correlation, slot & is_valid)
        average = layer.gradient_memory.mean(1).to(dtype)
        return torch.where(is_warm, average, correlation)


def memory_entries(memory_size: int, *names: str) -> tuple[Entry, ...]:
    """Memories of a number for each channel and batch, ``(C, m)``, and their counter.

    That is ``batches_memorized``, ``()``: all that have been, also those forgotten.
    """
    memories = [
        Entry(name, neutral=0.0, trailing=(memory_size,), is_parameter=False)
        for name in names
    ]
    counter = Entry(
        'batches_memorized',
        neutral=0,
        per_channel=False,
        is_parameter=False,
        dtype=torch.long,
    )
    return *memories, counter


def memorize(memory: Tensor, value: Tensor, where: Tensor) -> None:
    """Write ``value``, ``(C,)``, into the places of ``memory`` that ``where``, ``(m,)``."""
    value = value.to(memory.dtype).unsqueeze(1)
    memory.copy_(torch.where(where, value, memory))
