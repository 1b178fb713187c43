"""BatchNorm of samples of equal L2 norm (L2BN), arXiv 2207.02625."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages import BatchStatistics, L2Equalizing


class L2BN(PipelineNorm, _BatchNorm):
    """BatchNorm of samples that are scaled to one L2 norm first (arXiv 2207.02625).

    ``x' = sqrt(C*H*W) * x / |x|``, with the norm ``|x|`` of each sample over all its
    elements; then BatchNorm, of ``x'``. In evaluation, too, samples are scaled: it is no
    affine map of the input, and cannot be folded into a convolution.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: ``eps``, ``momentum``, ``affine``, ``track_running_stats``, ``sync``,
            ``sync_group_size``, ``device`` and ``dtype``, as in :class:`PipelineNorm`.

    Parameters and buffers are BatchNorm's. A BatchNorm checkpoint loads, but its running
    statistics are of samples as they were: the layer is another function until it has
    been trained.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages: Stages[BatchStatistics] = Stages(equalizing=L2Equalizing())
        super().__init__(num_features, stages, **common)
