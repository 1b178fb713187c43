"""The result: an affine map of ``x``, and what a depthwise convolution makes of it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..memory import memory_format
from .launch import launch
from .tiles import divide, element, place


def apply(
    x: Tensor,
    pivot: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    kernel: Tensor | None = None,
    bias: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """``z = scale * (x - pivot) / sqrt(var + eps) + shift``, or a convolution of it.

    Args:
        x: ``(N, C, H, W)``, dense and not empty.
        pivot: ``(N, C)`` float32, as are the next two; a channel's own number may be
            expanded over samples.
        scale: Likewise; None for 1.
        shift: Likewise; None for 0.
        kernel: ``(C, k, k)`` float32, for ``depthwise(z; kernel) + bias``.
        bias: As ``shift``, with a kernel.
        var: As ``pivot``; None to leave out the root.
        eps: Added to it.

    Returns:
        In the dtype and memory format of ``x``.
    """
    n, c, h, w = x.shape
    size = 1 if kernel is None else kernel.shape[-1]
    tiles = divide(x, elements=1024 if kernel is None else 512)
    y = torch.empty_like(x, memory_format=memory_format(x))
    given = [rows(t, pivot) for t in (pivot, scale, shift, bias, var)]
    launch(
        _apply, tiles.programs,
        x, y, *given, pivot if kernel is None else kernel.contiguous(), eps,
        *(t.stride(0) for t in given), c, h, w, h * w, tiles.length,
        SIZE=size, SCALE=scale is not None, SHIFT=shift is not None,
        BIAS=bias is not None, VAR=var is not None,
        LAST=tiles.last, POSITIONS=tiles.positions, CHANNELS=tiles.channels,
    )  # fmt: skip
    return y


def rows(coefficient: Tensor | None, absent: Tensor) -> Tensor:
    """``(N, C)`` with the channels side by side; the rows may be one and the same.

    What there is not is not read either: any tensor stands for it.
    """
    if coefficient is None:
        return absent
    # The stride of a single channel means nothing.
    if coefficient.shape[1] == 1 or coefficient.stride(1) == 1:
        return coefficient
    return coefficient.contiguous()


@triton.jit
def load_scale(
    scale, var, eps, at_scale, at_var, is_channel,
    SCALE: tl.constexpr, VAR: tl.constexpr,
):  # fmt: skip
    """``scale / sqrt(var + eps)``, of what there is."""
    result = tl.where(is_channel, 1.0, 0.0)
    if SCALE:
        result *= tl.load(scale + at_scale, is_channel, other=0)
    if VAR:
        result *= tl.rsqrt(tl.load(var + at_var, is_channel, other=1) + eps)
    return result


@triton.jit
def _apply(
    x, y, pivot, scale, shift, bias, var, kernel, eps,
    of_pivot, of_scale, of_shift, of_bias, of_var, C, H, W, M, length,
    SIZE: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr,
    BIAS: tl.constexpr, VAR: tl.constexpr,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``y[p] = sum_ij kernel[i,j] * z[p + (i,j) - SIZE//2] + bias``; or ``y = z``.

    The padding is of zeros in ``z``: a neighbour outside of the map adds nothing.
    """
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    lane = tl.arange(0, POSITIONS)[:, None]
    is_channel = c < C
    of_sample = n.to(tl.int64) * C * M
    pivot = tl.load(pivot + n * of_pivot + c, is_channel, other=0)
    factor = load_scale(
        scale, var, eps, n * of_scale + c, n * of_var + c, is_channel, SCALE, VAR
    )
    level = tl.zeros((1, CHANNELS), tl.float32)
    if SHIFT:
        level += tl.load(shift + n * of_shift + c, is_channel, other=0)
    behind = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    if BIAS:
        behind += tl.load(bias + n * of_bias + c, is_channel, other=0)
    step = C if LAST else 1  # from a position to the next
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        if SIZE == 1:
            value = tl.load(x + at, is_there, other=0).to(tl.float32)
            result = factor * (value - pivot) + level
        else:
            h = p // W
            w = p % W
            result = behind
            for i in tl.static_range(SIZE):
                for j in tl.static_range(SIZE):
                    row = i - SIZE // 2
                    column = j - SIZE // 2
                    neighbour = at + (row * W + column) * step
                    is_row = (h + row >= 0) & (h + row < H)
                    is_column = (w + column >= 0) & (w + column < W)
                    counts = is_there & is_row & is_column
                    value = tl.load(x + neighbour, counts, other=0).to(tl.float32)
                    z = tl.where(counts, factor * (value - pivot) + level, 0)
                    tap = c * (SIZE * SIZE) + i * SIZE + j
                    result += tl.load(kernel + tap, is_channel, other=0) * z
        tl.store(y + at, result.to(y.dtype.element_ty), is_there)
