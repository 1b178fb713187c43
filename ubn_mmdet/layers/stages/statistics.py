"""Statistics: what the input is normalised with, and how running averages move.

BatchNorm's, and UBN's, whose gate keeps a batch of too dissimilar samples out of them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ...ops.statistics import (
    CONDENSATIONS,
    SUMMARIES,
    batch_statistics,
    merge_statistics,
)
from ...ops.tensors import WholeMaps
from ..checks import check_choice, check_count, check_number
from .stage import Entry, Layer, Stage

CONDENSATION_MOMENTUM = 0.1

# What the gate needs to know of a batch: a vector and a count that add up over ranks.
Summary = tuple[Tensor, int | Tensor]

# What ``advance`` hands to ``normalizer``.
State = tuple[Tensor, ...]


class Batch(NamedTuple):
    """The statistics of a batch, merged over ranks if there are several.

    Attributes:
        mean: Of the centred input, ``(C,)``.
        var: Biased, ``(C,)``.
        count: Elements per channel; an int, or a scalar tensor after merging.
        summary: What the stage asked for with :meth:`BatchStatistics.summary`.
        is_counted: ``()`` bool, whether the batch moves any state; None for yes. One
            without elements does not, nor one that has been here before.
        group: The ranks that were merged; None for this one alone.
    """

    mean: Tensor
    var: Tensor
    count: int | Tensor  # type: ignore[assignment]
    summary: Summary | None
    is_counted: Tensor | None = None
    group: ProcessGroup | None = None


def whole_batch(
    passes: WholeMaps,
    mean: Tensor,
    var: Tensor,
    summary: Summary | None,
    group: ProcessGroup | None,
) -> Batch:
    """The statistics of a batch, merged over the ranks of ``group``.

    ``mean`` and ``var`` are those of each centred map of the input on this rank,
    ``(N, C)``; ``passes`` holds that input.
    """
    count, positions = passes.count, passes.positions
    shares = None if positions is None else positions / count
    mean, var = batch_statistics(mean, var, shares)
    if group is None:
        return Batch(mean, var, count, summary)
    packed = mean.new_empty(0)
    if summary is not None:
        values, number = summary
        packed = torch.cat([values, values.new_full((1,), int(number))])
    mean, var, total, packed = merge_statistics(mean, var, count, packed, group)
    if summary is not None:
        summary = packed[:-1], packed[-1]
    return Batch(mean, var, total, summary, total > 0, group)


class BatchStatistics(Stage):
    """BatchNorm's: the batch's own in training, running averages in evaluation.

    Statistics decide on ``mu`` and ``inv_std``, ``(C,)`` each:
    ``xhat = inv_std * (x - mu)``. In training, :meth:`advance` moves the layer's state by
    a batch and returns what of it the batch is normalised with; :meth:`normalizer` makes
    ``mu`` and ``inv_std`` of both. A forward that activation checkpointing repeats moves
    nothing, and uses the state of the call that it repeats.

    Attributes:
        num_groups: How many means there are; None for one in each channel.
        needs_tracking: Whether training needs the running statistics, too.
    """

    evaluates_as_batchnorm = True
    num_groups: int | None = None
    needs_tracking = False

    def summary(
        self, layer: Layer, passes: WholeMaps, mean: Tensor, var: Tensor
    ) -> Summary | None:
        """What else to learn of a batch; both parts must add up over ranks.

        ``passes`` has the input; ``mean`` and ``var``, biased, are those of each of its
        maps, ``(N, C)``.
        """
        return None

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the layer's state by a batch, without a graph.

        A batch whose statistics are not all finite is left out, as if it had not been: it
        would spoil the averages for good.

        Returns:
            Tensors that later calls do not change: what :meth:`normalizer` needs of the
            state.
        """
        var = unbiased(batch)
        move_mean_and_var(layer, batch.mean, var, may_update(batch, var))
        return ()

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` of a batch.

        ``state`` is what :meth:`advance` has returned; None if the layer does not update
        running statistics.
        """
        return mean_and_inv_std(layer, batch.mean, batch.var)

    def running(self, layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``mu, inv_std`` in evaluation."""
        return mean_and_inv_std(layer, *running_statistics(layer, dtype))


@dataclass(eq=False)
class GatedStatistics(BatchStatistics):
    """The batch's statistics while the gate is open, else the running ones.

    The gate is open while ``condensation``, the moving average of the batches' mean
    pairwise cosine, is above a threshold. With the gate closed, a batch is normalised with
    the running statistics, held constant, and leaves them alone (UBN, arXiv 2311.15993).

    Args:
        threshold: None for no gate.
        feature: What samples are compared by, one of ``SUMMARIES``.
        opens: ``'similar'``, or ``'dissimilar'`` for the reversed gate.
        min_updates: Updates of the running statistics before the gate may close.
    """

    threshold: float | None = 0.15
    feature: str = 'flat'
    opens: str = 'similar'
    min_updates: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number(
                'condensation_threshold',
                self.threshold,
                lambda v: 0 <= v < 1,
                'None or within [0, 1)',
            )
        check_choice('condensation_feature', self.feature, SUMMARIES)
        check_choice('condensation_opens', self.opens, ('similar', 'dissimilar'))
        check_count('condensation_min_updates', self.min_updates, least=0)

    def entries(self) -> tuple[Entry, ...]:
        """``condensation``, ``()``."""
        if self.threshold is None:
            return ()
        return (
            Entry('condensation', neutral=1.0, per_channel=False, is_parameter=False),
        )

    def summary(
        self, layer: Layer, passes: WholeMaps, mean: Tensor, var: Tensor
    ) -> Summary | None:
        """What the condensation follows from."""
        if not self.is_on(layer):
            return None
        return SUMMARIES[self.feature](passes.x, mean, var, passes.positions)

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move condensation, then decide on the gate, then move the running statistics.

        Returns:
            Whether the gate is open, ``()`` bool; the running mean and variance of before,
            ``(C,)`` each. Nothing if there is no gate.
        """
        if not self.is_on(layer):
            return super().advance(layer, batch)
        assert batch.summary is not None  # the gate has asked for one
        var = unbiased(batch)
        c = CONDENSATIONS[self.feature](*batch.summary)
        # One question for all averages: the sum is finite where both are.
        is_valid = may_update(batch, var + c)
        move(layer.condensation, c, CONDENSATION_MOMENTUM, is_valid)
        is_open = self.is_open(layer)
        running = (r.clone() for r in running_statistics(layer, batch.mean.dtype))
        state = is_open, *running
        move_mean_and_var(layer, batch.mean, var, is_valid & is_open)
        return state

    def is_open(self, layer: Layer) -> Tensor:
        """Whether the gate is open, ``()`` bool; for a layer that has one.

        A tensor: to read it back would make the host wait in every layer.
        """
        if self.opens == 'similar':
            is_open = layer.condensation > self.threshold
        else:
            is_open = layer.condensation <= self.threshold
        if self.min_updates:
            is_open = is_open | (layer.num_batches_tracked < self.min_updates)
        return is_open

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """The batch's statistics if the gate is open, else the running ones."""
        if not state:
            return super().normalizer(layer, batch, state)
        is_open, running_mean, running_var = state
        mean = torch.where(is_open, batch.mean, running_mean)
        var = torch.where(is_open, batch.var, running_var)
        return mean_and_inv_std(layer, mean, var)

    def is_on(self, layer: Layer) -> bool:
        """Whether the layer has a gate."""
        return self.threshold is not None and layer.condensation is not None


def mean_and_inv_std(layer: Layer, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """``mean`` and ``1 / sqrt(var + eps)``."""
    return mean, torch.rsqrt(var + layer.eps)


def running_statistics(layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The running mean and variance in ``dtype``, ``(C,)`` each."""
    return layer.running_mean.to(dtype), layer.running_var.to(dtype)


def unbiased(batch: Batch) -> Tensor:
    """The unbiased variance, ``(C,)``; not finite if ranks have one element in all."""
    return batch.var * (batch.count / (batch.count - 1))


def may_update(batch: Batch, values: Tensor) -> Tensor:
    """Whether a batch may change the state, ``()`` bool.

    It does if it is counted, and its variance, or what else ``values``, 1D, has of it, is
    finite. Where a variance or quadratic mean is finite, the mean is.
    """
    valid = all_finite(values)
    return valid if batch.is_counted is None else valid & batch.is_counted


def move_mean_and_var(layer: Layer, mean: Tensor, var: Tensor, moves: Tensor) -> None:
    """Move BatchNorm's running statistics in place, where ``moves``, ``()`` bool."""
    step = count_batch(layer, moves)
    move(layer.running_mean, mean, step, moves)
    move(layer.running_var, var, step, moves)


def count_batch(layer: Layer, moves: Tensor) -> Tensor | float:
    """Count a batch if it ``moves`` the running statistics; the step they move by."""
    layer.num_batches_tracked.add_(moves)
    if layer.momentum is not None:
        return layer.momentum
    # the average over all batches that moved them
    tracked = layer.num_batches_tracked.clamp(min=1)
    return tracked.to(layer.running_mean.dtype).reciprocal()


def all_finite(values: Tensor) -> Tensor:
    """``()`` bool: no inf or nan in ``values``, 1D. Nothing is read back."""
    return torch.linalg.vector_norm(values, math.inf) < math.inf


def move(average: Tensor, value: Tensor, step: Tensor | float, moves: Tensor) -> None:
    """Move a running average in place by a step towards ``value``, where ``moves``."""
    average.lerp_(torch.where(moves, stored(value, average.dtype), average), step)


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in the dtype of a buffer; what is beyond its range becomes its largest.

    Else one channel of large variance would keep a layer in float16 from all statistics.
    """
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(value.dtype).max:
        value = value.clamp(-largest, largest)
    return value.to(dtype)


def memory_entries(memory_size: int, *names: str) -> tuple[Entry, ...]:
    """Memories of a number for each channel and batch, ``(C, m)``, and their counter.

    That is ``batches_memorized``, ``()``: all that have been, also those forgotten.
    """
    memories = [
        Entry(name, neutral=0.0, trailing=(memory_size,), is_parameter=False)
        for name in names
    ]
    return *memories, counter('batches_memorized')


def counter(name: str) -> Entry:
    """A counter of batches, ``()``; a loaded BatchNorm starts it at 0."""
    return Entry(
        name, neutral=0, per_channel=False, is_parameter=False, dtype=torch.long
    )


def overwrite(buffer: Tensor, value: Tensor, where: Tensor) -> None:
    """Put ``value`` into a buffer, ``where``; all three broadcast."""
    buffer.copy_(torch.where(where, stored(value, buffer.dtype), buffer))
