"""BGN's statistics: over the features of a group, which is not a channel.

Both stages see the features in pieces, as if these were channels: ``P`` equal parts in
the features' order, each of which lies in one group and in one channel.
"""

import torch
from torch import Tensor

from ...ops.statistics import batch_statistics
from .affine import ChannelAffine
from .stage import Layer
from .statistics import Batch, BatchStatistics, State


class GroupStatistics(BatchStatistics):
    """Mean and variance over ``(N, D/G)`` of the ``D = C*H*W`` features (2012.02782).

    The running statistics are those of the groups, ``(G,)``.

    Args:
        num_groups: ``G``.
        pieces: ``P``, a multiple of ``G``.
    """

    evaluates_as_batchnorm = False
    unit = 'group'

    def __init__(self, num_groups: int, pieces: int) -> None:
        self.num_groups = num_groups
        self.pieces = pieces

    def prepare(self, layer: Layer) -> None:
        """Make the running statistics those of groups."""
        for name in ('running_mean', 'running_var'):
            of_channels = getattr(layer, name)
            if of_channels is not None:
                setattr(layer, name, of_channels.new_empty(self.num_groups))

    def values(self, count: int, channels: int) -> int:
        """Of a group."""
        return count * channels // self.num_groups

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Move the running statistics of the groups."""
        return super().advance(layer, self._of_groups(batch))

    def normalizer(
        self, layer: Layer, batch: Batch, state: State
    ) -> tuple[Tensor, Tensor]:
        """The groups' statistics, ``(P,)`` each."""
        groups = self._of_groups(batch)
        return self._of_pieces(*super().normalizer(layer, groups, state))

    def of_batch(self, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor]:
        """As in training."""
        return self._of_pieces(*super().of_batch(layer, self._of_groups(batch)))

    def running(self, layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """In evaluation."""
        return self._of_pieces(*super().running(layer, dtype))

    def _of_groups(self, batch: Batch) -> Batch:
        """The batch with the statistics of groups in the place of those of pieces."""
        parts = (
            batch.mean.view(self.num_groups, -1),
            batch.var.view(self.num_groups, -1),
        )
        mean, var = batch_statistics(*(part.t() for part in parts))
        count = batch.count * (self.pieces // self.num_groups)
        return batch._replace(mean=mean, var=var, count=count)

    def _of_pieces(self, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
        times = self.pieces // self.num_groups
        return spread(mean, times), spread(inv_std, times)


class PieceAffine(ChannelAffine):
    """BatchNorm's weight and bias, for channels that come in pieces.

    Args:
        times: Pieces of a channel.
    """

    evaluates_as_batchnorm = False

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def parameters(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight and bias of each piece, ``(P,)``."""
        weight, bias = super().parameters(layer)
        return spread(weight, self.times), spread(bias, self.times)


def spread(values: Tensor, times: int) -> Tensor:
    """Each value ``times`` times in a row."""
    return values.unsqueeze(1).expand(-1, times).flatten()
