"""A convolution with centred weights: the part of MABN that no norm layer can do."""

from torch import Tensor, nn


class CentralizedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with ``weight - mean(weight)``, the mean over inputs and kernel.

    In the place of centring what the convolution gives (MABN, ICLR 2020). Parameters and
    checkpoints are those of ``nn.Conv2d``; in the toolbox:
    ``conv_cfg=dict(type='CentralizedConv2d')``. A norm layer after it may be folded into
    it, as into any convolution: the mean is taken for each output channel.
    """

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        return super()._conv_forward(input, centred, bias)
