"""The backward's reduction: one read of ``dy`` and ``x`` for every sum it needs."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .apply import load_scale, rows
from .launch import launch
from .tiles import divide, element, place

COLUMNS, ROWS = 128, 16


class Sums(NamedTuple):
    """The gradients of the coefficients, float32.

    Attributes:
        pivot: ``-scale * sum u``, ``(N, C)``; None where there is a ``var``.
        scale: ``sum u * (x - pivot) / sqrt(var + eps)``, ``(N, C)``.
        shift: ``sum u``, ``(N, C)``.
        kernel: ``(C, k, k)``, or None where there is none.
        bias: ``sum dy``, ``(N, C)``, likewise.
    """

    pivot: Tensor | None
    scale: Tensor
    shift: Tensor
    kernel: Tensor | None
    bias: Tensor | None


def reduce(
    dy: Tensor,
    x: Tensor,
    pivot: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    kernel: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 0.0,
) -> Sums:
    """The gradients of what :func:`~.apply.apply` takes beside ``x``, but for ``var``'s.

    Args:
        dy: ``(N, C, H, W)``, dense and not empty.
        x: In the dtype and memory format of ``dy``.
        pivot: As for ``apply``, and so are the others.
        scale: Likewise.
        shift: Likewise; read with a kernel alone.
        kernel: Likewise.
        var: Likewise.
        eps: Likewise.
    """
    n, c, h, w = x.shape
    size = 1 if kernel is None else kernel.shape[-1]
    taps = 0 if kernel is None else size * size
    padded = triton.next_power_of_2(max(taps, 1))
    # A tile of sums for each tap, all in registers.
    tiles = divide(x, elements=min(4096 // padded, 1024))
    options: dict[str, Any] = {'dtype': torch.float32, 'device': x.device}
    sums = 2 + (taps > 0)
    parts = torch.empty(sums + taps, tiles.splits, n, c, **options)
    pivot, *others = (rows(t, pivot) for t in (pivot, scale, shift, var))
    strides = [t.stride(0) for t in others]
    has = {'SCALE': scale is not None, 'VAR': var is not None}
    layout = {
        'LAST': tiles.last, 'POSITIONS': tiles.positions, 'CHANNELS': tiles.channels
    }  # fmt: skip
    if kernel is None:
        launch(
            _sums_of_parts, tiles.programs,
            dy, x, parts, pivot, pivot.stride(0), n, c, h * w,
            tiles.length, tiles.splits,
            **layout,
        )  # fmt: skip
    else:
        launch(
            _sums_of_parts_with_kernel, tiles.programs,
            dy, x, parts, pivot, *others, kernel.contiguous(), eps,
            pivot.stride(0), *strides, n, c, h, w, h * w, tiles.length, tiles.splits,
            SIZE=size, TAPS=padded, SHIFT=shift is not None, **has, **layout,
        )  # fmt: skip
    of_maps = torch.empty(sums + 1, n, c, **options)
    of_kernel = torch.empty(c, size, size, **options) if taps else None
    blocks = triton.cdiv(n * c, COLUMNS)
    scales, _, variances = others
    launch(
        _sums_of_maps, blocks + taps * triton.cdiv(c, COLUMNS),
        parts, scales, variances, of_maps, parts if of_kernel is None else of_kernel,
        eps, strides[0], strides[2], n, c, tiles.splits, blocks,
        SUMS=sums, TAPS=taps, COLUMNS=COLUMNS, ROWS=ROWS, **has,
    )  # fmt: skip
    total, moment, *of_bias, of_pivot = of_maps
    return Sums(
        of_pivot if var is None else None,
        moment,
        total,
        of_kernel,
        of_bias[0] if taps else None,
    )


@triton.jit
def _sums_of_parts(
    dy, x, parts, pivot, of_pivot, N, C, M, length, splits,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``sum u`` and ``sum u * (x - pivot)``, where ``u = dy``."""
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    lane = tl.arange(0, POSITIONS)[:, None]
    is_channel = c < C
    of_sample = n.to(tl.int64) * C * M
    pivot = tl.load(pivot + n * of_pivot + c, is_channel, other=0)
    total = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    moment = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        u = tl.load(dy + at, is_there, other=0).to(tl.float32)
        value = tl.load(x + at, is_there, other=0).to(tl.float32)
        total += u
        moment += u * (value - pivot)
    to = parts + (split * N + n).to(tl.int64) * C + c
    tl.store(to, tl.sum(total, 0, keep_dims=True), is_channel)
    step = tl.cast(splits, tl.int64) * N * C
    tl.store(to + step, tl.sum(moment, 0, keep_dims=True), is_channel)


@triton.jit
def _sums_of_parts_with_kernel(
    dy, x, parts, pivot, scale, shift, var, kernel, eps,
    of_pivot, of_scale, of_shift, of_var, N, C, H, W, M, length, splits,
    SIZE: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    SCALE: tl.constexpr, VAR: tl.constexpr,
    LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``sum u``, ``sum u * (x - pivot)``, ``sum dy`` and the kernel's gradient.

    With ``shifted[i,j][p] = dy[p - (i,j) + SIZE//2]``, zero outside of the map:
    ``u = sum_ij kernel[i,j] * shifted[i,j]``, and the gradient of ``kernel[i,j]`` is
    ``sum_p shifted[i,j] * z`` with ``z`` as in ``apply``.
    """
    n, channels, split = place(C, M, length, LAST, CHANNELS)
    # A tile is (taps, positions, channels).
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    lane = tl.arange(0, POSITIONS)[None, :, None]
    tap = tl.arange(0, TAPS)[:, None, None]
    is_channel = c < C
    is_tap = is_channel & (tap < SIZE * SIZE)
    row = SIZE // 2 - tap // SIZE
    column = SIZE // 2 - tap % SIZE
    of_sample = n.to(tl.int64) * C * M
    weight = tl.load(kernel + c * (SIZE * SIZE) + tap, is_tap, other=0)
    pivot = tl.load(pivot + n * of_pivot + c, is_channel, other=0)
    factor = load_scale(
        scale, var, eps, n * of_scale + c, n * of_var + c, is_channel, SCALE, VAR
    )
    level = tl.zeros((1, 1, CHANNELS), tl.float32)
    if SHIFT:
        level += tl.load(shift + n * of_shift + c, is_channel, other=0)
    total = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
    moment = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
    step = C if LAST else 1  # from a position to the next
    of_bias = tl.zeros((1, POSITIONS, CHANNELS), tl.float32)
    of_kernel = tl.zeros((TAPS, POSITIONS, CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_there = is_channel & (p < end)
        at = of_sample + element(c, p, C, M, LAST)
        of_bias += tl.load(dy + at, is_there, other=0).to(tl.float32)
        deviation = tl.load(x + at, is_there, other=0).to(tl.float32) - pivot
        neighbour = at + (row * W + column) * step
        h = p // W + row
        w = p % W + column
        is_inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
        counts = is_tap & is_there & is_inside
        shifted = tl.load(dy + neighbour, counts, other=0).to(tl.float32)
        u = tl.sum(weight * shifted, 0, keep_dims=True)
        total += u
        moment += u * deviation
        of_kernel += shifted * (factor * deviation + level)
    to = parts + (split * N + n).to(tl.int64) * C + c
    step = tl.cast(splits, tl.int64) * N * C
    tl.store(to, tl.sum(total, 1, keep_dims=True), is_channel)
    tl.store(to + step, tl.sum(moment, 1, keep_dims=True), is_channel)
    tl.store(to + 2 * step, tl.sum(of_bias, 1, keep_dims=True), is_channel)
    of_tap = to + (3 + tap) * step
    tl.store(of_tap, tl.sum(of_kernel, 1, keep_dims=True), is_tap)


@triton.jit
def _sums_of_maps(
    parts, scale, var, of_maps, of_kernel, eps, of_scale, of_var, N, C, splits, blocks,
    SUMS: tl.constexpr, TAPS: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    SCALE: tl.constexpr, VAR: tl.constexpr,
):  # fmt: skip
    """Adds the parts up: of each map, and for the kernel of each channel.

    Each of the first ``blocks`` programs takes ``COLUMNS`` maps, each of the others one
    tap of ``COLUMNS`` channels. The second sum is divided by ``sqrt(var + eps)``, and
    ``-scale * sum u`` comes last.
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
            n = column // C
            at_scale = n * of_scale + column % C
            at_var = n * of_var + column % C
            if which == 0:
                factor = load_scale(
                    scale, var, eps, at_scale, at_var, is_map, SCALE, False
                )
                tl.store(of_maps + SUMS * N * C + column, -factor * result, is_map)
            if which == 1:
                result *= load_scale(
                    scale, var, eps, at_scale, at_var, is_map, False, VAR
                )
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
