"""Controls: what else a difference between norms could come from.

In no registry: a config names them by their path, ``ubn_mmdet.comparison.controls.``.
"""

from typing import Any

import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import Tensor, nn

from ..layers import BNET
from ..layers.stages.affine import spatial_kernel


class DepthwiseBN(nn.BatchNorm2d):
    """BatchNorm, and behind it an ordinary depthwise 3x3 convolution without a bias.

    The kernel starts as that of BNET at the paper's initialisation. It is a parameter of
    its own, ``depthwise_kernel``, ``(C, 1, 3, 3)``, which initialisers of convolutions
    leave alone.

    Args:
        num_features: Channels ``C``.
        **settings: Those of ``nn.BatchNorm2d``.
    """

    def __init__(self, num_features: int, **settings: object) -> None:
        super().__init__(num_features, **settings)  # type: ignore[arg-type]
        start: Any = BNET(num_features, initial_weight=0, initial_spatial='kaiming')
        kernel = spatial_kernel(start.weight, start.spatial_weight).detach()
        self.depthwise_kernel = nn.Parameter(kernel.unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and convolve ``x``, ``(N, C, H, W)``."""
        kernel = self.depthwise_kernel
        return F.conv2d(super().forward(x), kernel, padding=1, groups=len(kernel))


class ScaledFPN(FPN):
    """An FPN whose inputs are multiplied by a constant each.

    Args:
        scales: One for each input.
        **settings: Those of ``FPN``.
    """

    def __init__(self, scales: list[float], **settings: object) -> None:
        super().__init__(**settings)
        self.scales = scales

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The pyramid of the scaled inputs."""
        scaled = [s * x for s, x in zip(self.scales, inputs, strict=True)]
        return super().forward(scaled)
