"""Power Normalization (PowerNorm), arXiv 2003.07845."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_tracks
from .pipeline import PipelineNorm, Stages
from .stages import PowerStatistics


class PowerNorm(PipelineNorm, _BatchNorm):
    """Power Normalization: a running quadratic mean, in training too (2003.07845).

    ``y = weight * x / psi + bias``, ``psi^2 = running_var + eps`` as it was before the
    batch. The gradient through ``psi`` is approximated by a running average as well: the
    backward is not the derivative of the forward. Nothing is centred.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        warmup_steps: For so many batches ``psi`` is the batch's own, with its exact
            gradient. Batches are counted by ``num_batches_tracked``.
        momentum: Step of both averages, a number; the authors' 0.1.
        **common: ``eps``, ``affine``, ``sync``, ``sync_group_size``, ``device`` and
            ``dtype``, as in :class:`PipelineNorm`. ``track_running_stats=False`` is
            refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``running_gradient``, ``(C,)``. ``running_var`` is the running quadratic mean;
    ``running_mean`` stays as it is and is subtracted: 0 in a fresh layer, else that of the
    BatchNorm whose weights were loaded. Evaluation is BatchNorm's.

    With gradient scaling (AMP), ``running_gradient`` follows a change of the scale at the
    pace of ``momentum``.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    stages: Stages[PowerStatistics]

    def __init__(
        self,
        num_features: int,
        warmup_steps: int = 10_000,
        momentum: float = 0.1,
        **common: Any,
    ) -> None:
        check_tracks(common)
        if momentum is None:
            raise ValueError(
                'momentum must be within [0, 1], got None: the average of the gradient '
                'has no cumulative form'
            )
        statistics = PowerStatistics(warmup_steps)
        super().__init__(
            num_features, Stages(statistics=statistics), momentum=momentum, **common
        )

    def extra_repr(self) -> str:
        """BatchNorm's, and the warm-up."""
        return f'{super().extra_repr()}, warmup_steps={self.stages.statistics.warmup_steps}'
