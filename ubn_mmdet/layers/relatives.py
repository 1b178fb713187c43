"""Members of the family that are BatchNorm with another choice of known stages."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages.affine import (
    Centering,
    ChannelAffine,
    DepthwiseAffine,
    L2Equalizing,
    NormalizedScaling,
    RawScaling,
)


class RBN(PipelineNorm, _BatchNorm):
    """Representative Batch Normalization: centering before, scaling after (CVPR 2021).

    With ``x' = x + centering_weight * GAP(x)`` normalised to ``xhat``, as by BatchNorm,
    ``y = s * weight * xhat + bias``, and
    ``s = sigmoid(scaling_weight * GAP(xhat) + scaling_bias) / sigmoid(1)``.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters are ``weight``, ``bias``, ``centering_weight``, ``scaling_weight`` and
    ``scaling_bias``, ``(C,)`` each; buffers are BatchNorm's. A fresh layer is exactly
    BatchNorm, and takes its checkpoints.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages = Stages(
            centering=Centering(),
            scaling=NormalizedScaling(),
            affine=ChannelAffine(bias_is_scaled=False),
        )
        super().__init__(num_features, stages, **common)


class IEBN(PipelineNorm, _BatchNorm):
    """Instance Enhancement Batch Normalization: a gate by the raw mean (AAAI 2020).

    With ``xhat`` as in BatchNorm, ``y = s * weight * xhat + bias``, and
    ``s = sigmoid(scaling_weight * GAP(x) + scaling_bias) / sigmoid(-1)``.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters are ``weight``, ``bias``, ``scaling_weight`` and ``scaling_bias``,
    ``(C,)`` each; buffers are BatchNorm's. A fresh layer is exactly BatchNorm, and takes
    its checkpoints.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages = Stages(
            scaling=RawScaling(), affine=ChannelAffine(bias_is_scaled=False)
        )
        super().__init__(num_features, stages, **common)


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
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each, and ``spatial_weight``,
    ``(C, k, k)``; buffers are BatchNorm's. A fresh layer is exactly BatchNorm, and takes
    its checkpoints.
    """

    def __init__(
        self,
        num_features: int,
        kernel_size: int = 3,
        initial_weight: float = 1.0,
        initial_spatial: str = 'zeros',
        **common: Any,
    ) -> None:
        affine = DepthwiseAffine(
            initial_weight, kernel_size=kernel_size, initial_spatial=initial_spatial
        )
        super().__init__(num_features, Stages(affine=affine), **common)


class InitBN(PipelineNorm, _BatchNorm):
    """BatchNorm whose weight starts small (ECCV 2022, arXiv 2110.13989).

    There its weight also learns at a hundredth of the learning rate, and norm parameters
    and biases have no weight decay: that is the optimizer's, see
    ``InitBNOptimWrapperConstructor`` in ``ubn_mmdet/mm/optim.py``.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        initial_weight: What ``weight`` starts from, also where a toolbox's generic
            initialiser writes 1.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters and buffers are BatchNorm's, and so are its checkpoints.
    """

    def __init__(
        self, num_features: int, initial_weight: float = 0.1, **common: Any
    ) -> None:
        stages = Stages(affine=ChannelAffine(initial_weight))
        super().__init__(num_features, stages, **common)


class L2BN(PipelineNorm, _BatchNorm):
    """BatchNorm of samples that are scaled to one L2 norm first (arXiv 2207.02625).

    ``x' = sqrt(C*H*W) * x / |x|``, with the norm ``|x|`` of each sample over all its
    elements; then BatchNorm, of ``x'``. In evaluation, too, samples are scaled: it is no
    affine map of the input, and cannot be folded into a convolution.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.

    Parameters and buffers are BatchNorm's. A BatchNorm checkpoint loads, but its running
    statistics are of samples as they were: the layer is another function until it has
    been trained.
    """

    def __init__(self, num_features: int, **common: Any) -> None:
        stages = Stages(equalizing=L2Equalizing())
        super().__init__(num_features, stages, **common)
