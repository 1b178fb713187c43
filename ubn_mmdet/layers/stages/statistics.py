"""Statistics: what the input is normalised with, and how running averages move."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .stage import Stage


class Batch(NamedTuple):
    """The statistics of a batch, merged over ranks if there are several.

    Attributes:
        mean: Of the centred input, ``(C,)``.
        var: Biased, ``(C,)``.
        count: Elements a channel: a number, or ``()``.
        summary: What the stage asked for with :meth:`Statistics.summary`, ``(S,)``.
        exists: ``()`` bool, whether any rank has elements; None for certain.
        group: The ranks that were merged; None for this one alone.
    """

    mean: Tensor
    var: Tensor
    count: int | Tensor
    summary: Tensor
    exists: Tensor | None = None
    group: ProcessGroup | None = None


class Statistics(Stage):
    """Decides on ``mu`` and ``inv_std``, ``(C,)`` each: ``xhat = inv_std * (x - mu)``.

    Attributes:
        unit: What has one mean.
    """

    unit = 'channel'

    def values(self, x: Tensor) -> int:
        """Values that share a mean in the batch ``x``, ``(N, C, H, W)``."""
        return x.numel() // x.shape[1]

    def summary(self, layer: nn.Module, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """``(S,)``, what else to learn of a batch; must add up over ranks.

        Args:
            layer: The layer that has the state.
            x: The input, ``(N, C, H, W)``.
            mean: Of each map, ``(N, C)``.
            var: Biased, of each map, ``(N, C)``.
        """
        return mean.new_empty(0)

    def train(
        self, layer: nn.Module, batch: Batch, moves: bool
    ) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` in training.

        Args:
            layer: The layer that has the state.
            batch: The batch's statistics.
            moves: Whether the state moves; not where a forward is repeated.
        """
        raise NotImplementedError

    def of_batch(self, layer: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` where there are no running statistics, or they stand still."""
        return inverse_std(layer, batch.mean, batch.var)

    def running(self, layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` in evaluation."""
        return inverse_std(layer, *running_statistics(layer, dtype))


class BatchStatistics(Statistics):
    """BatchNorm's: the batch's own in training, running averages in evaluation."""

    evaluates_as_batchnorm = True

    def train(
        self, layer: nn.Module, batch: Batch, moves: bool
    ) -> tuple[Tensor, Tensor]:
        """The batch's statistics; moves the running ones."""
        return self._train(layer, batch, moves, batch.exists)

    def _train(
        self, layer: nn.Module, batch: Batch, moves: bool, is_open: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if moves:
            move_running_statistics(layer, batch, is_open)
        mean, var = batch.mean, batch.var
        if is_open is not None:
            old_mean, old_var = running_statistics(layer, mean.dtype)
            mean = torch.where(is_open, mean, old_mean)
            var = torch.where(is_open, var, old_var)
        return inverse_std(layer, mean, var)


def inverse_std(layer: nn.Module, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """``mean`` and ``1 / sqrt(var + eps)``."""
    return mean, torch.rsqrt(var + layer.eps)


def running_statistics(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The running mean and variance in ``dtype``, ``(C,)`` each."""
    return layer.running_mean.to(dtype), layer.running_var.to(dtype)


@torch.no_grad()
def move_running_statistics(
    layer: nn.Module, batch: Batch, is_open: Tensor | None
) -> None:
    """Move BatchNorm's running statistics by a batch, in place.

    A batch whose statistics are not all finite is left out, as if it had not been: it
    would spoil the averages for good.

    Args:
        layer: The layer that has them.
        batch: The batch.
        is_open: ``()`` bool, whether they move; None for certain.
    """
    unbiased_var = batch.var * (batch.count / (batch.count - 1))
    # As they will be stored: a buffer of half precision holds less than they do.
    dtype = layer.running_mean.dtype
    moves = all_finite(batch.mean.to(dtype), unbiased_var.to(dtype))
    if is_open is not None:
        moves = moves & is_open
    step = count_batch(layer, moves)
    move(layer.running_mean, batch.mean, step, moves)
    move(layer.running_var, unbiased_var, step, moves)


def count_batch(layer: nn.Module, moves: Tensor) -> Tensor | float:
    """Count a batch if it ``moves`` the running statistics; the step they move by."""
    layer.num_batches_tracked.add_(moves)
    if layer.momentum is not None:
        return layer.momentum
    # the average over all batches that moved them
    tracked = layer.num_batches_tracked.clamp(min=1)
    return tracked.to(layer.running_mean.dtype).reciprocal()


def all_finite(*tensors: Tensor) -> Tensor:
    """``()`` bool: no inf or nan in any of some 1D tensors. Nothing is read back."""
    return (torch.cat(tensors) * 0).sum() == 0


def move(average: Tensor, value: Tensor, step: Tensor | float, moves: Tensor) -> None:
    """Move a running average in place by a step towards ``value``, where ``moves``."""
    moved = torch.lerp(average, value.to(average.dtype), step)
    average.copy_(torch.where(moves, moved, average))
