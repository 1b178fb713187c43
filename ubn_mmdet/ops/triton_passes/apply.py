"""The apply: an affine function of each map, with a convolution; and its backward's sums.

``_Apply`` in ``fused.py`` is the autograd function that calls both.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fused import Coefficients, Sums
from ..tensors import memory_format
from .tiles import COLUMNS, ROWS, dense, divide, element, launch, place, rows


def apply(x: Tensor, coefficients: Coefficients) -> Tensor:
    """``Backend.apply``; the result is in the memory format of ``x``."""
    pivot, scale, shift, kernel, bias = coefficients
    x = dense(x)
    n, c, h, w = x.shape
    size = 1 if kernel is None else kernel.shape[-1]
    tiles = divide(x, elements=1024 if kernel is None else 512)
    y = torch.empty_like(x, memory_format=memory_format(x))
    given = [rows(t, pivot) for t in (pivot, scale, shift, bias)]
    launch(
        _apply, tiles.programs,
        x, y, *given, pivot if kernel is None else kernel.contiguous(),
        *(t.stride(0) for t in given), c, h, w, h * w, tiles.length,
        SIZE=size, **tiles.constants,
    )  # fmt: skip
    return y


@triton.jit
def _apply(
    x, y, pivot, scale, shift, bias, kernel,
    of_pivot, of_scale, of_shift, of_bias, C, H, W, M, length,
    SIZE: tl.constexpr, LAST: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
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
    scale = tl.load(scale + n * of_scale + c, is_channel, other=0)
    shift = tl.load(shift + n * of_shift + c, is_channel, other=0)
    if SIZE > 1:
        bias = tl.load(bias + n * of_bias + c, is_channel, other=0)
    step = C if LAST else 1  # from a position to the next
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        if SIZE == 1:
            value = tl.load(x + at, is_there, other=0).to(tl.float32)
            result = scale * (value - pivot) + shift
        else:
            h = p // W
            w = p % W
            result = tl.zeros((POSITIONS, CHANNELS), tl.float32) + bias
            for i in tl.static_range(SIZE):
                for j in tl.static_range(SIZE):
                    row = i - SIZE // 2
                    column = j - SIZE // 2
                    neighbour = at + (row * W + column) * step
                    is_row = (h + row >= 0) & (h + row < H)
                    is_column = (w + column >= 0) & (w + column < W)
                    counts = is_there & is_row & is_column
                    value = tl.load(x + neighbour, counts, other=0).to(tl.float32)
                    z = tl.where(counts, scale * (value - pivot) + shift, 0)
                    tap = c * (SIZE * SIZE) + i * SIZE + j
                    result += tl.load(kernel + tap, is_channel, other=0) * z
        tl.store(y + at, result.to(y.dtype.element_ty), is_there)


def sums(dy: Tensor, x: Tensor, coefficients: Coefficients) -> Sums:
    """``Backend.sums``, from one read of ``dy, x``.

    Handed on is ``dy`` itself: of it and the kernel, :func:`~.reduce.gradient` makes ``u``
    again, which is never in memory.
    """
    pivot, scale, shift, kernel, _ = coefficients
    x = dense(x)
    dy = dy.contiguous(memory_format=memory_format(x))
    n, c, h, w = x.shape
    size = 1 if kernel is None else kernel.shape[-1]
    taps = 0 if kernel is None else size * size
    padded = triton.next_power_of_2(max(taps, 1))
    # A tile of sums for each tap, all in registers.
    tiles = divide(x, elements=min(4096 // padded, 1024))
    options: dict[str, Any] = {'dtype': torch.float32, 'device': x.device}
    count = 2 + (taps > 0)
    parts = torch.empty(count + taps, tiles.splits, n, c, **options)
    given = [rows(t, pivot) for t in (pivot, scale, shift)]
    launch(
        _sums_of_parts, tiles.programs,
        dy, x, parts, *given, pivot if kernel is None else kernel.contiguous(),
        *(t.stride(0) for t in given),
        n, c, h, w, h * w, tiles.length, tiles.splits,
        SIZE=size, TAPS=padded, **tiles.constants,
    )  # fmt: skip
    of_maps = torch.empty(count, n, c, **options)
    of_kernel = torch.empty(c, size, size, **options) if taps else None
    blocks = triton.cdiv(n * c, COLUMNS)
    launch(
        _sums_of_maps, blocks + taps * triton.cdiv(c, COLUMNS),
        parts, of_maps, parts if of_kernel is None else of_kernel,
        n, c, tiles.splits, blocks,
        SUMS=count, TAPS=taps, COLUMNS=COLUMNS, ROWS=ROWS,
    )  # fmt: skip
    total, moment, *of_bias = of_maps
    return Sums(dy, moment, total, of_kernel, of_bias[0] if taps else None)


@triton.jit
def _sums_of_parts(
    dy, x, parts, pivot, scale, shift, kernel,
    of_pivot, of_scale, of_shift, N, C, H, W, M, length, splits,
    SIZE: tl.constexpr, TAPS: tl.constexpr,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``sum u``, ``sum u * (x - pivot)``; with a kernel ``sum dy`` and its gradient.

    Without one, ``u = dy``. With ``shifted[i,j][p] = dy[p - (i,j) + SIZE//2]``, zero
    outside of the map: ``u = sum_ij kernel[i,j] * shifted[i,j]``, and the gradient of
    ``kernel[i,j]`` is ``sum_p shifted[i,j] * z`` with ``z`` as in ``apply``.
    """
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    # A tile is (taps, positions, channels).
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    lane = tl.arange(0, POSITIONS)[None, :, None]
    is_channel = c < C
    of_sample = n.to(tl.int64) * C * M
    pivot = tl.load(pivot + n * of_pivot + c, is_channel, other=0)
    total = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
    moment = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
    if SIZE > 1:
        tap = tl.arange(0, TAPS)[:, None, None]
        is_tap = is_channel & (tap < SIZE * SIZE)
        row = SIZE // 2 - tap // SIZE
        column = SIZE // 2 - tap % SIZE
        weight = tl.load(kernel + c * (SIZE * SIZE) + tap, is_tap, other=0)
        scale = tl.load(scale + n * of_scale + c, is_channel, other=0)
        shift = tl.load(shift + n * of_shift + c, is_channel, other=0)
        step = C if LAST else 1  # from a position to the next
        of_bias = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
        of_kernel = tl.zeros((TAPS, POSITIONS, CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        u = tl.load(dy + at, is_there, other=0).to(tl.float32)
        deviation = tl.load(x + at, is_there, other=0).to(tl.float32) - pivot
        if SIZE > 1:
            of_bias += u
            neighbour = at + (row * W + column) * step
            h = p // W + row
            w = p % W + column
            is_inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
            counts = is_tap & is_there & is_inside
            shifted = tl.load(dy + neighbour, counts, other=0).to(tl.float32)
            of_kernel += shifted * (scale * deviation + shift)
            u = tl.sum(weight * shifted, 0, keep_dims=True)
        total += u
        moment += u * deviation
    to = parts + (split * N + n).to(tl.int64) * C + c
    step_of_parts = tl.cast(splits, tl.int64) * N * C
    tl.store(to, tl.sum(total, 1, keep_dims=True), is_channel)
    tl.store(to + step_of_parts, tl.sum(moment, 1, keep_dims=True), is_channel)
    if SIZE > 1:
        to_bias = to + 2 * step_of_parts
        tl.store(to_bias, tl.sum(of_bias, 1, keep_dims=True), is_channel)
        to_tap = to + (3 + tap) * step_of_parts
        tl.store(to_tap, tl.sum(of_kernel, 1, keep_dims=True), is_tap)


@triton.jit
def _sums_of_maps(
    parts, of_maps, of_kernel, N, C, splits, blocks,
    SUMS: tl.constexpr, TAPS: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Adds the parts up: of each map, and for the kernel of each channel.

    Each of the first ``blocks`` programs takes ``COLUMNS`` maps, each of the others one
    tap of ``COLUMNS`` channels.
    """
    program = tl.program_id(0)
    lane = tl.arange(0, ROWS)[:, None]
    step = tl.cast(splits, tl.int64) * N * C
    if program < blocks:
        column = program * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        is_map = column < N * C
        for which in tl.static_range(SUMS):
            result = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, splits, ROWS):
                row = start + lane
                at = parts + which * step + row.to(tl.int64) * N * C + column
                result += tl.load(at, (row < splits) & is_map, other=0)
            result = tl.sum(result, 0, keep_dims=True)
            tl.store(of_maps + which * N * C + column, result, is_map)
    elif TAPS > 0:
        of_channels = tl.cdiv(C, COLUMNS)
        tap = (program - blocks) // of_channels
        c = (program - blocks) % of_channels * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        result = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, splits * N, ROWS):
            row = start + lane
            at = parts + (SUMS + tap) * step + row.to(tl.int64) * C + c
            result += tl.load(at, (row < splits * N) & (c < C), other=0)
        result = tl.sum(result, 0, keep_dims=True)
        tl.store(of_kernel + c * TAPS + tap, result, c < C)
