"""Equalizing: what is done to whole samples before anything else."""

import torch
from torch import Tensor

from .stage import Stage


class L2Equalizing(Stage):
    """Scales every sample to one L2 norm, ``sqrt(C*H*W)`` (L2BN, arXiv 2207.02625).

    Its elements then have a mean square of 1. A sample of zeros stays what it is.
    """

    def __call__(self, mean: Tensor, var: Tensor) -> Tensor:
        """The factor of each sample, ``(N, 1)``: ``sqrt(C*H*W) / |x_n|``.

        ``|x_n|^2`` is ``H*W * sum_c (V + K^2)``, and takes no pass. Where padded pixels
        are left out, both are over the valid part.

        Args:
            mean: ``K``, the mean of each map, ``(N, C)``.
            var: ``V``, biased, ``(N, C)``.
        """
        square = torch.addcmul(var, mean, mean).mean(dim=1, keepdim=True)
        # 0 for a sample of zeros, which then has no gradient in place of an infinite one.
        least = torch.finfo(square.dtype).tiny
        factor = torch.rsqrt(square.clamp(min=least))
        return torch.where(square < least, torch.zeros_like(factor), factor)
