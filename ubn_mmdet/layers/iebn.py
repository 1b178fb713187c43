"""Instance Enhancement Batch Normalization (IEBN), AAAI 2020."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages import BatchStatistics, ChannelAffine, RawScaling


class IEBN(PipelineNorm, _BatchNorm):
    """Instance Enhancement Batch Normalization: a gate by the raw mean (AAAI 2020).

    With ``xhat`` as in BatchNorm, ``y = s * weight * xhat + bias``, and
    ``s = sigmoid(scaling_weight * GAP(x) + scaling_bias) / sigmoid(-1)``.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: ``eps``, ``momentum``, ``affine``, ``track_running_stats``, ``sync``,
            ``sync_group_size``, ``device`` and ``dtype``, as in :class:`PipelineNorm`.

    Parameters are ``weight``, ``bias``, ``scaling_weight`` and ``scaling_bias``,
    ``(C,)`` each; buffers are BatchNorm's. A fresh layer is exactly BatchNorm, and takes
    its checkpoints.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages: Stages[BatchStatistics] = Stages(
            scaling=RawScaling(), affine=ChannelAffine(bias_is_scaled=False)
        )
        super().__init__(num_features, stages, **common)
