"""What a layer is normalised with, and what a training step moves on the way there."""

from collections.abc import Callable
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor


class Normalizer(NamedTuple):
    """What to normalise with.

    Attributes:
        mean: ``mu``, ``(C,)``.
        var: Biased, ``(C,)``.
        is_open: ``()`` bool, whether both are the batch's; None for certain.
        count: Elements of a channel that they are of, on all ranks: a number or ``()``;
            None where they are constants.
        group: The ranks that were merged; None for this one alone.
    """

    mean: Tensor
    var: Tensor
    is_open: Tensor | None = None
    count: int | Tensor | None = None  # type: ignore[assignment]
    group: dist.ProcessGroup | None = None


class Averages(NamedTuple):
    """A layer's buffers that a training step moves, and the rule that they move by.

    Attributes:
        mean: Running, ``(C,)``, as is ``var``.
        var: Unbiased.
        batches: ``()`` int64, how many batches moved them.
        momentum: The step that they move by; None for the average over all batches.
        moves: Whether they move at all; not where a forward is repeated.
        condensation: ``()``, how alike samples have been, by whole maps; None for no gate.
        condensation_momentum: The step that it moves by.
        threshold: Of the gate.
        opens_above: Whether the gate is open above the threshold, or else up to it.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor
    momentum: float | None
    moves: bool
    condensation: Tensor | None = None
    condensation_momentum: float = 0.0
    threshold: float = 0.0
    opens_above: bool = True


class OfBatch(NamedTuple):
    """The statistics of a batch, which are yet to come.

    Attributes:
        normalizer: Makes them of ``K``, ``V`` and the means of the centred maps, ``(N, C)``
            each, and of the products of all pairs of samples, ``(N, N)``, or None. Moves
            the averages; to be called once, where nothing is recorded for autograd.
        count: Elements of a channel on this rank.
        group: The ranks to merge; None for this one alone.
        averages: What ``normalizer`` moves, for who does the same in another way; None
            where that takes more than is said here.
    """

    normalizer: Callable[[Tensor, Tensor, Tensor, Tensor | None], Normalizer]
    count: int  # type: ignore[assignment]
    group: dist.ProcessGroup | None = None
    averages: Averages | None = None
