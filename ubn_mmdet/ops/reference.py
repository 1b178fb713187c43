"""The passes over ``x`` in differentiable operations: the reference of ``fused.py``.

Also what runs where a hand-written backward cannot: differentiating twice, tracing,
compiling, tensors without data (``dispatch.py`` decides).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import compute_dtype, is_empty, over_positions


class ReferencePasses:
    """The passes of one call: reductions over the positions of ``x``, and an apply.

    Args:
        x: ``(N, C, H, W)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    # Zero where there are no positions, and part of the graph all the same: a rank
    # without elements must go through the backward of what all ranks have merged.

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of each map."""
        reduce = torch.sum if is_empty(self.x) else torch.mean
        return reduce(self.x, dim=(2, 3), dtype=compute_dtype(self.x))

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
        if is_empty(self.x):
            zeros = self.mean()
            return zeros, zeros
        wide = self.x.to(compute_dtype(self.x))
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
        return mean, var

    # In terms of x - pivot: the coefficients' gradients are then sums over deviations,
    # exact also where the mean is large against the deviation.

    def pointwise(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``scale * (x - pivot) + shift`` in the dtype of ``x``.

        The coefficients are ``(N, C)`` or ``(C,)``.
        """
        return self._affine(pivot, scale, shift).to(self.x.dtype)

    def depthwise(
        self, pivot: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, bias: Tensor
    ) -> Tensor:
        """``depthwise(scale * (x - pivot) + shift; kernel) + bias`` in ``x``'s dtype.

        The convolution pads with zeros, ``k // 2`` on each side. ``kernel`` is
        ``(C, k, k)``, the other coefficients are ``(N, C)`` or ``(C,)``.
        """
        normalized = self._affine(pivot, scale, shift)
        if is_empty(self.x):  # the convolution refuses maps without positions
            y = normalized + 0 * kernel.sum()
        else:
            channels, _, size = kernel.shape
            weight = kernel.unsqueeze(1).to(normalized.dtype)
            # Two numbers: in a trace they are tensors, and PyTorch up to 2.5 takes one
            # tensor for a list.
            padding = size // 2, size // 2
            y = F.conv2d(normalized, weight, padding=padding, groups=channels)
        return (y + over_positions(bias)).to(self.x.dtype)

    def _affine(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        centred = self.x - over_positions(pivot)
        return centred * over_positions(scale) + over_positions(shift)
