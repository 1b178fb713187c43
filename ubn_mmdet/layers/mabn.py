"""Moving Average Batch Normalization (MABN), ICLR 2020."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_tracks
from .pipeline import PipelineNorm, Stages
from .stages import MemoryStatistics


class MABN(PipelineNorm, _BatchNorm):
    """Moving Average Batch Normalization: averages over recent batches (ICLR 2020).

    ``y = weight * r * x / sqrt(chi + eps) + bias``. ``chi`` is the mean of ``E[x^2]`` over
    the last ``memory_size`` batches, and ``r = sqrt(chi)/sqrt(running_var)`` brings it to
    the long average. The backward uses an average over as many batches, too: it is not the
    derivative of the forward. Nothing is centred. The paper centres the weights of the
    convolution before the layer: see :class:`CentralizedConv2d`.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        memory_size: Batches that the averages are over.
        warmup_steps: For so many batches, and until the memory is full, a batch's own
            statistics are used, with their exact gradient.
        renorm_steps: For so many batches ``r`` is 1.
        r_max: ``r`` stays within ``[1/r_max, r_max]``; constant for the gradient.
        momentum: Step of ``running_var``; the authors' 0.02.
        **common: ``eps``, ``affine``, ``sync``, ``sync_group_size``, ``device`` and
            ``dtype``, as in :class:`PipelineNorm`. ``track_running_stats=False`` is
            refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``square_memory`` and ``gradient_memory``, ``(C, memory_size)``, and
    ``batches_memorized``, ``()``. ``running_var`` is the average of ``chi``;
    ``running_mean`` stays as it is and is subtracted: 0 in a fresh layer, else that of the
    BatchNorm whose weights were loaded. Evaluation is BatchNorm's.

    With gradient scaling (AMP), a change of the scale reaches ``gradient_memory`` with as
    many batches' delay.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    stages: Stages[MemoryStatistics]

    def __init__(
        self,
        num_features: int,
        memory_size: int = 16,
        warmup_steps: int = 100,
        renorm_steps: int = 1_000,
        r_max: float = 5.0,
        momentum: float | None = 0.02,
        **common: Any,
    ) -> None:
        check_tracks(common)
        statistics = MemoryStatistics(memory_size, warmup_steps, renorm_steps, r_max)
        super().__init__(
            num_features, Stages(statistics=statistics), momentum=momentum, **common
        )

    def extra_repr(self) -> str:
        """BatchNorm's, and the memory."""
        statistics = self.stages.statistics
        return (
            f'{super().extra_repr()}, memory_size={statistics.memory_size}, '
            f'warmup_steps={statistics.warmup_steps}, '
            f'renorm_steps={statistics.renorm_steps}, r_max={statistics.r_max}'
        )
