"""The reduction: the moments of each map, and its backward, the gradient of ``x``.

``_Reduce`` in ``fused.py`` is the autograd function that calls both.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tensors import memory_format
from .tiles import COLUMNS, ROWS, dense, divide, element, launch, place, rows


def mean(x: Tensor) -> Tensor:
    """``Backend.mean``."""
    return moments(x)[0]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """``Backend.moments``."""
    x = dense(x)
    n, c, h, w = x.shape
    tiles = divide(x)
    options: dict[str, Any] = {'dtype': torch.float32, 'device': x.device}
    parts = torch.empty(2, tiles.splits, n, c, **options)
    launch(
        _moments_of_parts, tiles.programs,
        x, parts, n, c, h * w, tiles.length, tiles.splits,
        **tiles.constants,
    )  # fmt: skip
    result = torch.empty(2, n, c, **options)
    launch(
        _moments_of_maps, triton.cdiv(n * c, COLUMNS),
        parts, result, n * c, h * w, tiles.length, tiles.splits,
        COLUMNS=COLUMNS, ROWS=ROWS,
    )  # fmt: skip
    return result[0], result[1]


@triton.jit
def _moments_of_parts(
    x, parts, N, C, M, length, splits,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a part of some maps.

    Welford's recurrence in each lane, which sees every ``POSITIONS``-th element, about
    its first one: ``mean += (x - mean_old) / count`` and
    ``m2 += (x - mean_old) * (x - mean)``. Nothing that may be far from zero is rounded
    or squared. :func:`_merge` merges the lanes.
    """
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    lane = tl.arange(0, POSITIONS)[:, None]
    of_sample = x + n.to(tl.int64) * C * M
    end = tl.minimum((split + 1) * length, M)
    p = split * length + lane
    first = tl.load(of_sample + element(c, p, C, M, LAST), (c < C) & (p < end), other=0)
    first = first.to(tl.float32)
    count = tl.zeros((POSITIONS, 1), tl.float32)
    mean = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    m2 = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = (c < C) & (p < end)
        value = tl.load(of_sample + element(c, p, C, M, LAST), is_there, other=0)
        count += (p < end).to(tl.float32)
        deviation = value.to(tl.float32) - first
        delta = tl.where(is_there, deviation - mean, 0)
        mean += delta / tl.maximum(count, 1)
        m2 += delta * (deviation - mean)
    total = (end - split * length).to(tl.float32)
    K, M2 = _merge(first + mean, m2, count, total)
    to = parts + (split * N + n).to(tl.int64) * C + c
    tl.store(to, K, c < C)
    tl.store(to + tl.cast(splits, tl.int64) * N * C, M2, c < C)


@triton.jit
def _merge(mean, m2, count, total):
    """``K = sum count*mean / total`` and ``M2 = sum m2 + count*(mean - K)^2`` over rows.

    ``K`` in two steps, and ``M2`` less what ``K`` is wrong by: in one, the rounding of
    a large sum would show where the mean is large against the deviation.
    """
    K = tl.sum(count * mean, 0, keep_dims=True) / total
    K += tl.sum(count * (mean - K), 0, keep_dims=True) / total
    deviation = mean - K
    squares = tl.sum(m2 + count * deviation * deviation, 0, keep_dims=True)
    left = tl.sum(count * deviation, 0, keep_dims=True)
    return K, squares - left * left / total


@triton.jit
def _moments_of_maps(
    parts, result, NC, M, length, splits,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``K`` and ``V = M2 / M`` of ``COLUMNS`` maps, merged from ``ROWS`` parts at a time.

    Merging the next rows: ``K += step * share``, ``M2 += M2_rows + step^2 * seen * share``,
    with ``step = K_rows - K`` and their ``share`` of what has been seen by then.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    lane = tl.arange(0, ROWS)[:, None]
    K = tl.zeros((1, COLUMNS), tl.float32)
    M2 = tl.zeros((1, COLUMNS), tl.float32)
    seen = tl.zeros((1, 1), tl.float32)
    for start in range(0, splits, ROWS):
        row = start + lane
        is_there = (row < splits) & (column < NC)
        at = parts + row.to(tl.int64) * NC + column
        mean = tl.load(at, is_there, other=0)
        m2 = tl.load(at + tl.cast(splits, tl.int64) * NC, is_there, other=0)
        count = tl.minimum(length, M - row * length).to(tl.float32)
        count = tl.where(row < splits, count, 0)
        total = tl.sum(count, 0, keep_dims=True)
        of_rows, m2_of_rows = _merge(mean, m2, count, total)
        step = of_rows - K
        share = total / (seen + total)
        K += step * share
        M2 += m2_of_rows + step * step * seen * share
        seen += total
    tl.store(result + column, K, column < NC)
    tl.store(result + NC + column, M2 / M, column < NC)


def gradient(
    dy: Tensor,
    kernel: Tensor | None,
    scale: Tensor,
    x: Tensor,
    pivot: Tensor | None = None,
    slope: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """``Backend.gradient``, with ``u`` made on the way.

    ``u`` is ``dy``, or with a kernel the transposed depthwise convolution of it. ``x`` is
    read with ``slope`` alone; the result is in its memory format.
    """
    x = dense(x)
    dy = dy.contiguous(memory_format=memory_format(x))
    n, c, h, w = dy.shape
    size = 1 if kernel is None else kernel.shape[-1]
    tiles = divide(dy, elements=1024 if kernel is None else 512)
    dx = torch.empty_like(dy, memory_format=memory_format(dy))
    given = [rows(t, scale) for t in (scale, pivot, slope, offset)]
    launch(
        _gradient, tiles.programs,
        dy, x, dx, *given,
        scale if kernel is None else kernel.contiguous(),
        *(t.stride(0) for t in given), c, h, w, h * w, tiles.length,
        SIZE=size, SLOPE=slope is not None, OFFSET=offset is not None,
        **tiles.constants,
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
