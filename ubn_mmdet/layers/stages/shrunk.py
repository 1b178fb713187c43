"""JSNorm's statistics: the batch's, shrunk over channels."""

import torch
from torch import Tensor

from .stage import Layer
from .statistics import Batch, BatchStatistics, State


class ShrunkStatistics(BatchStatistics):
    """The batch's mean and variance, each a James-Stein estimate (arXiv 2312.00313).

    Running statistics are averages of what training normalises with.
    """

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics towards the shrunk ones."""
        return super().advance(layer, _shrunk(batch))

    def normalizer(
        self, layer: Layer, batch: Batch, state: State
    ) -> tuple[Tensor, Tensor]:
        """The shrunk statistics; the gradient goes through the shrinkage, too."""
        return super().normalizer(layer, _shrunk(batch), state)

    def of_batch(self, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor]:
        """As in training."""
        return super().of_batch(layer, _shrunk(batch))


def _shrunk(batch: Batch) -> Batch:
    return batch._replace(mean=james_stein(batch.mean), var=james_stein(batch.var))


def james_stein(values: Tensor) -> Tensor:
    """``(1 - (C - 2) * var_c(values) / |values|^2) * values``, ``(C,)``.

    ``var_c`` is the biased variance over the ``C`` channels. As ``|values|^2`` is
    ``C * (var_c + mean_c^2)``, the factor is between ``2/C`` and 1: no sign changes. It is
    1 for one or two channels, and for equal values.
    """
    # The factor is that of any multiple of the values: squares of these neither overflow
    # nor vanish.
    largest = values.detach().abs().amax()
    unit = values / largest.clamp(min=torch.finfo(values.dtype).tiny)
    square = unit.square().mean()
    spread = unit.var(correction=0) / torch.where(square > 0, square, 1)
    return (1 - (1 - 2 / len(values)) * spread) * values
