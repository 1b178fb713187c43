"""The gradient of ``x``: the last pass of the backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..memory import memory_format
from .apply import rows
from .launch import launch
from .tiles import divide, element, place


def gradient(
    dy: Tensor,
    scale: Tensor,
    kernel: Tensor | None = None,
    x: Tensor | None = None,
    pivot: Tensor | None = None,
    slope: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """``dx = scale * u + slope * (x - pivot) + offset``, with ``u`` made on the way.

    ``u`` is ``dy``, or with a kernel the transposed depthwise convolution of it. Where
    ``x`` has been normalised with its own moments, ``slope`` is ``2*dV/M``, ``pivot`` is
    ``K``, ``offset`` is ``dK/M``.

    Args:
        dy: ``(N, C, H, W)``, dense and not empty.
        scale: ``(N, C)`` float32; a channel's own number may be expanded over samples.
        kernel: ``(C, k, k)`` float32.
        x: With ``slope``: in the dtype and memory format of ``dy``.
        pivot: With ``slope``: as ``scale``.
        slope: As ``scale``; None for zero.
        offset: Likewise.

    Returns:
        In the dtype and memory format of ``dy``.
    """
    n, c, h, w = dy.shape
    size = 1 if kernel is None else kernel.shape[-1]
    tiles = divide(dy, elements=1024 if kernel is None else 512)
    dx = torch.empty_like(dy, memory_format=memory_format(dy))
    given = [rows(t, scale) for t in (scale, pivot, slope, offset)]
    launch(
        _gradient, tiles.programs,
        dy, dy if x is None else x, dx, *given,
        scale if kernel is None else kernel.contiguous(),
        *(t.stride(0) for t in given), c, h, w, h * w, tiles.length,
        SIZE=size, SLOPE=slope is not None, OFFSET=offset is not None,
        LAST=tiles.last, POSITIONS=tiles.positions, CHANNELS=tiles.channels,
    )  # fmt: skip
    return dx


@triton.jit
def _gradient(
    dy, x, dx, scale, pivot, slope, offset, kernel,
    of_scale, of_pivot, of_slope, of_offset, C, H, W, M, length,
    SIZE: tl.constexpr, SLOPE: tl.constexpr, OFFSET: tl.constexpr,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``dx``, with ``u[p] = sum_ij kernel[i,j] * dy[p - (i,j) + SIZE//2]``."""
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    lane = tl.arange(0, POSITIONS)[:, None]
    is_channel = c < C
    of_sample = n.to(tl.int64) * C * M
    scale = tl.load(scale + n * of_scale + c, is_channel, other=0)
    if SLOPE:
        slope = tl.load(slope + n * of_slope + c, is_channel, other=0)
        pivot = tl.load(pivot + n * of_pivot + c, is_channel, other=0)
    if OFFSET:
        offset = tl.load(offset + n * of_offset + c, is_channel, other=0)
    step = C if LAST else 1  # from a position to the next
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        if SIZE == 1:
            u = tl.load(dy + at, is_there, other=0).to(tl.float32)
        else:
            h = p // W
            w = p % W
            u = tl.zeros((POSITIONS, CHANNELS), tl.float32)
            for i in tl.static_range(SIZE):
                for j in tl.static_range(SIZE):
                    row = SIZE // 2 - i
                    column = SIZE // 2 - j
                    neighbour = at + (row * W + column) * step
                    is_row = (h + row >= 0) & (h + row < H)
                    is_column = (w + column >= 0) & (w + column < W)
                    counts = is_there & is_row & is_column
                    value = tl.load(dy + neighbour, counts, other=0).to(tl.float32)
                    tap = c * (SIZE * SIZE) + i * SIZE + j
                    u += tl.load(kernel + tap, is_channel, other=0) * value
        result = scale * u
        if OFFSET:
            result += offset
        if SLOPE:
            value = tl.load(x + at, is_there, other=0).to(tl.float32)
            result += slope * (value - pivot)
        tl.store(dx + at, result.to(dx.dtype.element_ty), is_there)
