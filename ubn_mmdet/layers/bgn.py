"""Batch Group Normalization (BGN), arXiv 2012.02782."""

from dataclasses import dataclass, field
from math import lcm
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.padding import ValidPart
from ..ops.statistics import batch_statistics
from ..ops.tensors import is_empty, memory_format
from .checks import check_count
from .pipeline import PipelineNorm, Stages
from .stages.affine import ChannelAffine
from .stages.stage import Layer
from .stages.statistics import Batch, BatchStatistics, State


class BGN(PipelineNorm, _BatchNorm):
    """Batch Group Normalization: statistics over groups of features (arXiv 2012.02782).

    The ``D = C*H*W`` features of a sample, in the order of memory, are cut into ``G``
    groups of ``D/G``; mean and variance are over the batch and the features of a group.
    Few groups make up for few samples, many groups for many. ``weight`` and ``bias`` are
    those of channels, as in BatchNorm.

    A group may be several maps, a part of one, or cross from one into the next. So the
    layer gives the pipeline its input not by channels but by pieces, ``lcm(G, C)`` equal
    parts of the features: the largest that lie in one group and in one channel each.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        num_groups: ``G``. It must divide ``C*H*W``; if it divides ``C``, that holds for
            every size of input, and groups are whole maps.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are ``running_mean`` and
    ``running_var``, ``(G,)`` each, and ``num_batches_tracked``. With ``num_groups`` equal
    to ``num_features`` it is BatchNorm; otherwise a BatchNorm checkpoint does not fit.

    A group is the same share of the features in every input. So running statistics serve
    inputs of any size, and ranks whose sizes differ merge theirs, each element counting
    once. Where groups cut maps, that share is another part of the picture at another
    height or width: statistics then mix parts.

    Raises:
        ValueError: In ``forward``, if ``num_groups`` does not divide ``C*H*W``; or, where
            padded pixels are to be left out, if it does not divide ``num_features``.
    """

    def __init__(self, num_features: int, num_groups: int, **common: Any) -> None:
        check_count('num_features', num_features)
        check_count('num_groups', num_groups)
        self.num_groups = num_groups
        self._pieces = lcm(num_groups, num_features)
        stages = Stages(
            statistics=GroupStatistics(num_groups, self._pieces // num_groups),
            affine=PieceAffine(times=self._pieces // num_features),
        )
        super().__init__(num_features, stages, **common)
        for name in ('running_mean', 'running_var'):
            of_channels = getattr(self, name)
            if of_channels is not None:
                setattr(self, name, of_channels.new_empty(num_groups))
        self.reset_running_stats()

    def _normalize(self, x: Tensor, valid: ValidPart | None) -> Tensor:
        if self._pieces == self.num_features:  # as they are
            return super()._normalize(x, valid)
        if valid is not None:
            raise ValueError(
                f'num_groups must divide num_features = {self.num_features} to leave '
                f'padded pixels out, got {self.num_groups}: its groups cut maps'
            )
        if not torch.jit.is_tracing() and x[:1].numel() % self._pieces:
            raise ValueError(
                f'num_groups must divide C*H*W = {"*".join(map(str, x.shape[1:]))}, '
                f'got {self.num_groups}'
            )
        length = 0 if is_empty(x) else -1
        rows = x.reshape(x.shape[0], self._pieces, length, 1)
        y = super()._normalize(rows, None).view(x.shape)
        return y.contiguous(memory_format=memory_format(x))


# Both stages see the features in pieces, as if these were channels: ``P`` equal parts in
# the features' order, each of which lies in one group and in one channel.


@dataclass(eq=False)
class GroupStatistics(BatchStatistics):
    """Mean and variance over ``(N, D/G)``, of groups of so many pieces each."""

    evaluates_as_batchnorm = False

    num_groups: int = field()  # no default: the base class has one
    times: int

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics of the groups."""
        return super().advance(layer, self._of_groups(batch))

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """The groups' statistics, ``(P,)`` each."""
        groups = self._of_groups(batch)
        return self._of_pieces(*super().normalizer(layer, groups, state))

    def running(self, layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """In evaluation."""
        return self._of_pieces(*super().running(layer, dtype))

    def _of_groups(self, batch: Batch) -> Batch:
        """The batch with the statistics of groups in the place of those of pieces."""
        parts = (t.view(self.num_groups, -1).t() for t in (batch.mean, batch.var))
        mean, var = batch_statistics(*parts)
        return batch._replace(mean=mean, var=var, count=batch.count * self.times)

    def _of_pieces(self, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
        return mean.repeat_interleave(self.times), inv_std.repeat_interleave(self.times)


@dataclass(eq=False)
class PieceAffine(ChannelAffine):
    """BatchNorm's weight and bias, for channels that come in so many pieces."""

    times: int = 1

    def parameters(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight and bias of each piece, ``(P,)``."""
        weight, bias = super().parameters(layer)
        return weight.repeat_interleave(self.times), bias.repeat_interleave(self.times)
