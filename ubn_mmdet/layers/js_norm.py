"""BatchNorm with James-Stein estimates (JSNorm), arXiv 2312.00313."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages.stage import Layer
from .stages.statistics import Batch, BatchStatistics, State


class JSNorm(PipelineNorm, _BatchNorm):
    """BatchNorm whose mean and variance are James-Stein estimates (arXiv 2312.00313).

    ``y = weight * (x - mu_JS) / sqrt(var_JS + eps) + bias``. With ``mu``, the batch's
    means of the ``C`` channels as one vector,
    ``mu_JS = (1 - (C - 2) * var_c(mu) / |mu|^2) * mu``, where ``var_c`` is the variance
    over the channels; so is ``var_JS`` made of the batch's variances. With one or two
    channels it is BatchNorm.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each; buffers are BatchNorm's, and
    average the estimates. Checkpoints and evaluation are BatchNorm's.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages = Stages(statistics=ShrunkStatistics())
        super().__init__(num_features, stages, **common)


class ShrunkStatistics(BatchStatistics):
    """The batch's mean and variance, each a James-Stein estimate."""

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics towards the shrunk ones."""
        return super().advance(layer, _shrunk(batch))

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """The shrunk statistics; the gradient goes through the shrinkage, too."""
        return super().normalizer(layer, _shrunk(batch), state)


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
