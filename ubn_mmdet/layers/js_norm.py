"""BatchNorm with James-Stein estimates (JSNorm), arXiv 2312.00313."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages import ShrunkStatistics


class JSNorm(PipelineNorm, _BatchNorm):
    """BatchNorm whose mean and variance are James-Stein estimates (arXiv 2312.00313).

    ``y = weight * (x - mu_JS) / sqrt(var_JS + eps) + bias``. With ``mu``, the batch's
    means of the ``C`` channels as one vector,
    ``mu_JS = (1 - (C - 2) * var_c(mu) / |mu|^2) * mu``, where ``var_c`` is the variance
    over the channels; so is ``var_JS`` made of the batch's variances. With one or two
    channels it is BatchNorm.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: ``eps``, ``momentum``, ``affine``, ``track_running_stats``, ``sync``,
            ``sync_group_size``, ``device`` and ``dtype``, as in :class:`PipelineNorm`.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each; buffers are BatchNorm's, and
    average the estimates. Checkpoints and evaluation are BatchNorm's.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages = Stages(statistics=ShrunkStatistics())
        super().__init__(num_features, stages, **common)
