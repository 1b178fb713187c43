"""UBN as its authors' fork has it: the names of its checkpoints, and its own form."""

import torch
from torch import Tensor, nn

from helpers.definition import over_maps
from ubn_mmdet import UBN

# What their gate starts at, where ours starts at one.
GATE = 1 / (1 + torch.tensor(-1.0, dtype=torch.float64).exp().item())


class AuthorsUBN(nn.Module):
    """The gate is a plain sigmoid, the affine a depthwise convolution; in float64.

    It starts at random, away from where a layer starts. Running statistics are those of
    evaluation, and stay as they are.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        shape = 1, channels, 1, 1
        for name in ('center_weight', 'scale_weight', 'scale_bias'):
            self.register_parameter(name, nn.Parameter(torch.randn(shape).double()))
        self.bnconv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        ).double()
        self.register_buffer('running_mean', torch.randn(channels).double())
        self.register_buffer('running_var', torch.rand(channels).double() + 0.5)

    @classmethod
    def of(cls, ours: UBN) -> 'AuthorsUBN':
        """The layer that trains as ``ours`` does, with a 3 x 3 kernel."""
        theirs = cls(ours.num_features)
        kernel = ours.spatial_weight.detach().clone()
        kernel[:, 1, 1] = ours.weight.detach()
        with torch.no_grad():
            theirs.center_weight.copy_(over_maps(ours.centering_weight))
            theirs.scale_weight.copy_(over_maps(ours.scaling_weight))
            theirs.scale_bias.copy_(over_maps(ours.scaling_bias))
            theirs.bnconv.weight.copy_(kernel.unsqueeze(1) / GATE)
            theirs.bnconv.bias.copy_(ours.bias / GATE)
        return theirs

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.center_weight * x.mean((2, 3), keepdim=True)
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        xhat = (x - over_maps(mean)) / torch.sqrt(over_maps(var) + 1e-5)
        pooled = xhat.mean((2, 3), keepdim=True)
        gate = torch.sigmoid(self.scale_weight * pooled + self.scale_bias)
        return gate * self.bnconv(xhat)
