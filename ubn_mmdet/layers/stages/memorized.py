"""MBN's statistics: those of the last batches, of which one may be seen again."""

import torch
from torch import Tensor

from ..checks import check_count, check_number
from .memory import memorize, memory_entries
from .stage import Entry, Layer
from .statistics import (
    Batch,
    Statistics,
    count_batch,
    inverse_std,
    is_finite,
    move_mean_and_var,
    to_store,
)


class MemorizedStatistics(Statistics):
    """Mean and variance over the last batches, the present one included (2010.04947).

    A batch that is ``age`` batches old has the weight ``decay**age``. The gradient goes
    through the present one alone. While ``layer.is_second_forward``, the batch takes the
    place of the last one in the memory: it is the same, of other weights.

    The running statistics are those of the memory, or, with ``momentum=None``, the average
    over all batches.

    Args:
        memory_size: Batches ``m`` that are remembered.
        decay: Of the weights, in (0, 1].
    """

    evaluates_as_batchnorm = True

    def __init__(self, memory_size: int = 10, decay: float = 0.9) -> None:
        check_count('memory_size', memory_size)
        check_number('decay', decay, lambda v: 0 < v <= 1, 'within (0, 1]')
        self.memory_size = memory_size
        self.decay = decay

    def entries(self) -> tuple[Entry, ...]:
        """The memories, ``(C, m)`` each, and what counts them, ``()``."""
        return memory_entries(self.memory_size, 'mean_memory', 'var_memory')

    def advance(self, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Memorize the batch, and make the running statistics those of the memory.

        Returns:
            The weight of the batch in all of them, ``()``; mean and biased variance of the
            others, ``(C,)`` each.
        """
        is_valid = is_finite(batch, *to_store(layer, batch))
        count = layer.batches_memorized
        if not layer.is_second_forward:
            count.add_(is_valid)
        slots = torch.arange(self.memory_size, device=count.device)
        ages = (count - 1 - slots) % self.memory_size
        is_here = (ages == 0) & (count > 0) & is_valid
        memorize(layer.mean_memory, batch.mean, is_here)
        memorize(layer.var_memory, batch.var, is_here)
        state = self._others(layer, ages, count, batch.mean.dtype)
        self._move(layer, batch, state, is_valid)
        return state

    def normalizer(
        self, layer: Layer, batch: Batch, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The statistics of the batch and of those in the memory, as of one batch."""
        return inverse_std(layer, *_with_others(batch, state))

    def _others(
        self, layer: Layer, ages: Tensor, count: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`advance` returns.

        Args:
            layer: The layer that has the memory.
            ages: Of what is in it, ``(m,)``; 0 for the present batch.
            count: Batches memorized so far, ``()``.
            dtype: Of the result.
        """
        weights = (ages > 0) & (ages < count)
        weights = weights * torch.pow(self.decay, ages.to(dtype))
        total = weights.sum()
        weights = weights / torch.where(total > 0, total, 1)
        means, variances = layer.mean_memory.to(dtype), layer.var_memory.to(dtype)
        mean = (weights * means).sum(dim=1)
        spread = (means - mean.unsqueeze(1)).square()
        return 1 / (1 + total), mean, (weights * (variances + spread)).sum(dim=1)

    def _move(
        self, layer: Layer, batch: Batch, state: tuple[Tensor, ...], is_valid: Tensor
    ) -> None:
        """Move the running statistics, if the batch ``is_valid``."""
        if layer.momentum is None:
            if not layer.is_second_forward:
                move_mean_and_var(layer, *to_store(layer, batch), is_valid)
            return
        if not layer.is_second_forward:
            count_batch(layer, is_valid)
        averages = layer.running_mean, layer.running_var
        for average, value in zip(averages, _with_others(batch, state), strict=True):
            average.copy_(torch.where(is_valid, value.to(average.dtype), average))


def _with_others(batch: Batch, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of a batch together with others.

    Args:
        batch: The batch.
        state: Its weight, and mean and variance of the others.
    """
    share, mean, var = state
    distance = batch.mean - mean
    between = share * (1 - share) * distance.square()
    return mean + share * distance, var + share * (batch.var - var) + between
