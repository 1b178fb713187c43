"""Batch Renormalization, arXiv 1702.03275."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_tracks
from .pipeline import PipelineNorm, Stages
from .stages import RenormStatistics


class BatchRenorm(PipelineNorm, _BatchNorm):
    """BatchNorm that in training, too, normalises about as in evaluation (1702.03275).

    ``y = weight * (r * xhat + d) + bias``, with ``xhat`` as in BatchNorm. ``r`` and ``d``
    turn the batch's statistics into the running ones, as far as their limits allow. They
    are constants for the gradient.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        r_max: ``r = sigma_B/sigma`` stays within ``[1/r_max, r_max]``.
        d_max: ``d = (mu_B - mu)/sigma`` stays within ``[-d_max, d_max]``.
        plain_steps: For so many batches the layer is BatchNorm. Then the limits grow
            linearly from 1 and 0 to ``r_max`` and ``d_max``.
        r_steps: Batches until the limit of ``r`` is ``r_max``, counted from the start.
        d_steps: Batches until the limit of ``d`` is ``d_max``, likewise. Batches are
            counted by ``num_batches_tracked``.
        momentum: Step of the running statistics; the paper's 0.01.
        **common: ``eps``, ``affine``, ``sync``, ``sync_group_size``, ``device`` and
            ``dtype``, as in :class:`PipelineNorm`. ``track_running_stats=False`` is
            refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each; buffers are BatchNorm's. A fresh
    layer is exactly BatchNorm, and checkpoints are BatchNorm's.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    stages: Stages[RenormStatistics]

    def __init__(
        self,
        num_features: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        plain_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
        momentum: float | None = 0.01,
        **common: Any,
    ) -> None:
        check_tracks(common)
        statistics = RenormStatistics(r_max, d_max, plain_steps, r_steps, d_steps)
        super().__init__(
            num_features, Stages(statistics=statistics), momentum=momentum, **common
        )

    def extra_repr(self) -> str:
        """BatchNorm's, and the limits."""
        statistics = self.stages.statistics
        return (
            f'{super().extra_repr()}, r_max={statistics.r_max}, '
            f'd_max={statistics.d_max}, plain_steps={statistics.plain_steps}, '
            f'r_steps={statistics.r_steps}, d_steps={statistics.d_steps}'
        )
