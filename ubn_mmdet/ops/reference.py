"""The passes over ``x`` in differentiable operations: the reference of ``fused.py``.

Also what runs where a hand-written backward cannot: differentiating twice, tracing by a
compiler, tensors without data (``dispatch.py`` decides).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import Moments, compute_dtype, over_positions

# --- reductions over positions; zero where there are none ---------------------------


def spatial_mean(x: Tensor) -> Moments:
    """``K``: the mean of each map."""
    if x.numel() == 0:
        return Moments(x, x.new_zeros(x.shape[:2], dtype=compute_dtype(x)))
    return Moments(x, x.mean(dim=(2, 3), dtype=compute_dtype(x)))


def moments(x: Tensor) -> Moments:
    """``K, V``: mean and biased variance of each map."""
    if x.numel() == 0:
        zeros = x.new_zeros(x.shape[:2], dtype=compute_dtype(x))
        return Moments(x, zeros, zeros)
    var, mean = torch.var_mean(x.to(compute_dtype(x)), dim=(2, 3), correction=0)
    return Moments(x, mean, var)


# --- apply: the only pass that writes -----------------------------------------------
#
# In terms of x - pivot: the coefficients' gradients are then sums over deviations, exact
# also where the mean is large against the deviation.


def apply_pointwise(m: Moments, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * (x - pivot) + shift`` in the dtype of ``x``.

    The coefficients are ``(N, C)`` or ``(C,)``.
    """
    return _affine(m.x, pivot, scale, shift).to(m.x.dtype)


def apply_depthwise(
    m: Moments,
    pivot: Tensor,
    scale: Tensor,
    shift: Tensor,
    kernel: Tensor,
    bias: Tensor,
) -> Tensor:
    """``depthwise(scale * (x - pivot) + shift; kernel) + bias`` in the dtype of ``x``.

    The convolution pads with zeros, ``k // 2`` on each side. ``kernel`` is ``(C, k, k)``,
    the other coefficients ``(N, C)`` or ``(C,)``.
    """
    normalized = _affine(m.x, pivot, scale, shift)
    if m.x.numel():
        weight = kernel[:, None].to(normalized.dtype)
        padding = kernel.shape[-1] // 2
        y = F.conv2d(normalized, weight, padding=padding, groups=len(kernel))
    else:  # the convolution refuses maps without positions
        y = normalized + 0 * kernel.sum()
    return (y + over_positions(bias)).to(m.x.dtype)


def _affine(x: Tensor, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = x - over_positions(pivot)
    return centred * over_positions(scale) + over_positions(shift)
