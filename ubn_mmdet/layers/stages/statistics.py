"""Statistics: what the input is normalised with, and how running averages move."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ...ops.normalizer import Averages
from .stage import Layer, Stage

# ``(S,)``, and a number or ``()``: what else there is to know of a batch.
Summary = tuple[Tensor, int | Tensor]


class Batch(NamedTuple):
    """The statistics of a batch, merged over ranks if there are several.

    Attributes:
        mean: Of the centred input, ``(C,)``.
        var: Biased, ``(C,)``.
        count: Elements a channel: a number, or ``()``.
        summary: What the stage asked for with :meth:`Statistics.summary`.
        exists: ``()`` bool, whether any rank has elements; None for certain.
        group: The ranks that were merged; None for this one alone.
    """

    mean: Tensor
    var: Tensor
    count: int | Tensor  # type: ignore[assignment]
    summary: Summary | None
    exists: Tensor | None = None
    group: ProcessGroup | None = None


class Statistics(Stage):
    """Decides on ``mu`` and ``inv_std``, ``(C,)`` each: ``xhat = inv_std * (x - mu)``.

    Attributes:
        unit: What has one mean.
    """

    unit = 'channel'

    def values(self, count: int, channels: int) -> int:
        """Values that share a mean in a batch of ``count`` elements a channel."""
        return count

    def wants_gram(self, layer: Layer) -> bool:
        """Whether :meth:`summary` has a use for the products of all pairs of samples."""
        return False

    def summary(
        self,
        layer: Layer,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gram: Tensor | None = None,
    ) -> Summary | None:
        """What else to learn of a batch; both parts must add up over ranks.

        Args:
            layer: The layer that has the state.
            x: The input, ``(N, C, H, W)``.
            mean: Of each map, ``(N, C)``.
            var: Biased, of each map, ``(N, C)``.
            gram: The products of all pairs of samples, ``(N, N)``, if they are known.
        """
        return None

    def train(self, layer: Layer, batch: Batch, moves: bool) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` in training.

        Args:
            layer: The layer that has the state.
            batch: The batch's statistics.
            moves: Whether the state moves; not where a forward is repeated.
        """
        raise NotImplementedError

    def of_batch(self, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` where there are no running statistics, or they stand still."""
        return inverse_std(layer, batch.mean, batch.var)

    def running(self, layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` in evaluation."""
        return inverse_std(layer, *running_statistics(layer, dtype))


class BatchStatistics(Statistics):
    """BatchNorm's: the batch's own in training, running averages in evaluation."""

    evaluates_as_batchnorm = True

    def train(self, layer: Layer, batch: Batch, moves: bool) -> tuple[Tensor, Tensor]:
        """The batch's statistics; moves the running ones."""
        is_open = self.advance(layer, batch, moves)
        return inverse_std(layer, *choose(layer, batch, is_open))

    def advance(self, layer: Layer, batch: Batch, moves: bool) -> Tensor | None:
        """Move the state by a batch; whether its own statistics are used.

        Args:
            layer: The layer that has the state.
            batch: The batch's statistics.
            moves: Whether the state moves; not where a forward is repeated.

        Returns:
            ``()`` bool; None for certain.
        """
        if moves:
            move_running_statistics(layer, batch, batch.exists)
        return batch.exists

    def averages(self, layer: Layer, moves: bool) -> Averages | None:
        """All that :meth:`advance` moves, in numbers; None if they do not say it all.

        Args:
            layer: The layer that has the state.
            moves: Whether the state moves.
        """
        return Averages(
            layer.running_mean,
            layer.running_var,
            layer.num_batches_tracked,
            layer.momentum,
            moves,
        )


def choose(layer: Layer, batch: Batch, is_open: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of the batch if ``is_open``, else the running ones."""
    if is_open is None:
        return batch.mean, batch.var
    old_mean, old_var = running_statistics(layer, batch.mean.dtype)
    mean = torch.where(is_open, batch.mean, old_mean)
    return mean, torch.where(is_open, batch.var, old_var)


def inverse_std(layer: Layer, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """``mean`` and ``1 / sqrt(var + eps)``."""
    return mean, torch.rsqrt(var + layer.eps)


def running_statistics(layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The running mean and variance in ``dtype``, ``(C,)`` each."""
    return layer.running_mean.to(dtype), layer.running_var.to(dtype)


@torch.no_grad()
def move_running_statistics(layer: Layer, batch: Batch, is_open: Tensor | None) -> None:
    """Move BatchNorm's running statistics by a batch, in place.

    A batch whose statistics are not all finite is left out, as if it had not been: it
    would spoil the averages for good.

    Args:
        layer: The layer that has them.
        batch: The batch.
        is_open: ``()`` bool, whether they move; None for certain.
    """
    mean, var = to_store(layer, batch)
    moves = is_finite(batch, mean, var)
    if is_open is not None:
        moves = moves & is_open
    move_mean_and_var(layer, mean, var, moves)


def to_store(layer: Layer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of a batch, ``(C,)``, in the dtype of the averages.

    The variance of a single element, which has none, is not finite.
    """
    var = batch.var * (batch.count / (batch.count - 1))
    dtype = layer.running_mean.dtype
    return batch.mean.to(dtype), var.to(dtype)


def is_finite(
    batch: Batch, mean: Tensor, var: Tensor, scalar: Tensor | None = None
) -> Tensor:
    """``()`` bool: no inf or nan in what :func:`to_store` gives, and in a ``()``."""
    if mean.dtype == batch.mean.dtype:
        # A mean that is not finite leaves no variance that is. A buffer of lower
        # precision holds less than was computed.
        return all_finite(var, scalar)
    return all_finite(torch.cat([mean, var]), scalar)


def move_mean_and_var(layer: Layer, mean: Tensor, var: Tensor, moves: Tensor) -> None:
    """Move BatchNorm's running statistics in place, where ``moves``, ``()`` bool."""
    step = count_batch(layer, moves)
    move([layer.running_mean, layer.running_var], [mean, var], step, moves)


def count_batch(layer: Layer, moves: Tensor) -> Tensor | float:
    """Count a batch if it ``moves`` the running statistics; the step they move by."""
    layer.num_batches_tracked.add_(moves)
    if layer.momentum is not None:
        return layer.momentum
    # the average over all batches that moved them
    tracked = layer.num_batches_tracked.clamp(min=1)
    return tracked.to(layer.running_mean.dtype).reciprocal()


def all_finite(values: Tensor, scalar: Tensor | None = None) -> Tensor:
    """``()`` bool: no inf or nan in ``(C,)`` values and a ``()`` one.

    Nothing is read back.
    """
    largest = torch.linalg.vector_norm(values, math.inf)
    if scalar is not None:
        largest = torch.hypot(largest, scalar)
    return largest < math.inf


def move(
    averages: list[Tensor],
    values: list[Tensor],
    step: Tensor | float,
    moves: Tensor,
) -> None:
    """Move running averages in place by a step towards ``values``, where ``moves``."""
    targets = [
        torch.where(moves, value.to(average.dtype), average)
        for average, value in zip(averages, values, strict=True)
    ]
    if isinstance(step, Tensor) or len(averages) == 1:
        for average, target in zip(averages, targets, strict=True):
            average.lerp_(target, step)
    else:
        torch._foreach_lerp_(averages, targets, step)
