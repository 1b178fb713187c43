"""BNET: Batch Normalization with enhanced linear transformation, arXiv 2011.14150."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages import DepthwiseAffine


class BNET(PipelineNorm, _BatchNorm):
    """BatchNorm whose affine is a depthwise k x k convolution (arXiv 2011.14150).

    With ``xhat`` as in BatchNorm, ``y = depthwise(xhat; kernel) + bias``, padded with
    zeros. The kernel is ``weight`` at the centre and ``spatial_weight`` around it.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        kernel_size: Odd size ``k`` of the kernel, 3 or more.
        initial_weight: What ``weight``, the centre tap, starts from, also where a
            toolbox's generic initialiser writes 1.
        initial_spatial: What is added to every tap at the start: nothing (``'zeros'``), or
            a normal part with standard deviation ``sigmoid(1) * sqrt(2/(k*k*C))``
            (``'kaiming'``) or ``1/k``, which keeps the variance (``'fan_in'``).
        **common: ``eps``, ``momentum``, ``affine``, ``track_running_stats``, ``sync``,
            ``sync_group_size``, ``device`` and ``dtype``, as in :class:`PipelineNorm`.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each, and ``spatial_weight``,
    ``(C, k, k)``; buffers are BatchNorm's. A fresh layer is exactly BatchNorm, and takes
    its checkpoints.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(
        self,
        num_features: int,
        kernel_size: int = 3,
        initial_weight: float = 1.0,
        initial_spatial: str = 'zeros',
        **common: Any,
    ) -> None:
        affine = DepthwiseAffine(kernel_size, initial_spatial, initial_weight)
        super().__init__(num_features, Stages(affine=affine), **common)

    def extra_repr(self) -> str:
        """BatchNorm's, and the kernel's size."""
        return f'{super().extra_repr()}, kernel_size={self.stages.affine.kernel_size}'
