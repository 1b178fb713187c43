"""Mean and variance of each map, and the Gram matrix of a small batch."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .tiles import divide, element, place

GRAM_SAMPLES = 8  # more take more registers than there are
COLUMNS, ROWS = 128, 16


def moments(x: Tensor, gram: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of each map the mean and the biased variance, ``(N, C)`` float32 each.

    Args:
        x: ``(N, C, H, W)``, dense and not empty.
        gram: Whether to return the scalar products of all pairs of samples as well,
            ``(N, N)`` float32, for ``GRAM_SAMPLES`` samples at most.
    """
    n, c, h, w = x.shape
    samples = triton.next_power_of_2(n) if gram else 1
    tiles = divide(x, samples=samples)
    options: dict[str, Any] = {'dtype': torch.float32, 'device': x.device}
    parts = torch.empty(2, tiles.splits, n, c, **options)
    products = torch.empty(samples, samples, tiles.programs if gram else 0, **options)
    launch(
        _moments_of_parts, tiles.programs,
        x, parts, products, n, c, h * w, tiles.length, tiles.splits, tiles.programs,
        LAST=tiles.last, SAMPLES=samples, GRAM=gram,
        POSITIONS=tiles.positions, CHANNELS=tiles.channels,
    )  # fmt: skip
    result = torch.empty(2, n, c, **options)
    pairs = torch.empty(samples, samples, **options)
    blocks = triton.cdiv(n * c, COLUMNS)
    launch(
        _moments_of_maps, blocks + gram * samples * samples,
        parts, products, result, pairs,
        n * c, h * w, tiles.length, tiles.splits, tiles.programs, blocks,
        COLUMNS=COLUMNS, ROWS=ROWS,
    )  # fmt: skip
    return result[0], result[1], pairs[:n, :n] if gram else None


@triton.jit
def _moments_of_parts(
    x, parts, products, N, C, M, length, splits, programs,
    LAST: tl.constexpr, SAMPLES: tl.constexpr, GRAM: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a part of some maps; products of samples.

    Welford's recurrence in each lane, which sees every ``POSITIONS``-th element, about
    its first one: ``mean += (x - mean_old) / count`` and
    ``m2 += (x - mean_old) * (x - mean)``. Nothing that may be far from zero is rounded
    or squared. :func:`_merge` merges the lanes.
    """
    block, channels, split = place(C, M, length, LAST, CHANNELS)
    # A tile is (samples, samples, positions, channels), for the products of all pairs.
    n = block * SAMPLES + tl.arange(0, SAMPLES)[None, :, None, None]
    c = channels * CHANNELS + tl.arange(0, CHANNELS)[None, None, None, :]
    lane = tl.arange(0, POSITIONS)[None, None, :, None]
    of_sample = x + n.to(tl.int64) * C * M
    if GRAM:
        other = block * SAMPLES + tl.arange(0, SAMPLES)[:, None, None, None]
        of_other = x + other.to(tl.int64) * C * M
        product = tl.zeros((SAMPLES, SAMPLES, POSITIONS, CHANNELS), tl.float32)
    p = split * length + lane
    is_there = (n < N) & (c < C) & (p < tl.minimum((split + 1) * length, M))
    first = tl.load(of_sample + element(c, p, C, M, LAST), is_there, other=0)
    first = first.to(tl.float32)
    count = tl.zeros((1, 1, POSITIONS, 1), tl.float32)
    mean = tl.zeros((1, SAMPLES, POSITIONS, CHANNELS), tl.float32)
    m2 = tl.zeros((1, SAMPLES, POSITIONS, CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * length, M)
    for start in range(split * length, end, POSITIONS):
        p = start + lane
        is_map = (c < C) & (p < end)
        is_there = (n < N) & is_map
        at = element(c, p, C, M, LAST)
        value = tl.load(of_sample + at, is_there, other=0).to(tl.float32)
        count += (p < end).to(tl.float32)
        deviation = value - first
        delta = tl.where(is_there, deviation - mean, 0)
        mean += delta / tl.maximum(count, 1)
        m2 += delta * (deviation - mean)
        if GRAM:
            with_other = tl.load(of_other + at, (other < N) & is_map, other=0)
            product += value * with_other.to(tl.float32)

    total = (end - split * length).to(tl.float32)
    K, M2 = _merge(first + mean, m2, count, total, 2)
    to = parts + (split * N + n).to(tl.int64) * C + c
    is_there = (n < N) & (c < C)
    tl.store(to, K, is_there)
    tl.store(to + tl.cast(splits, tl.int64) * N * C, M2, is_there)
    if GRAM:
        i = tl.arange(0, SAMPLES)[:, None]
        j = tl.arange(0, SAMPLES)[None, :]
        of_pair = products + (i * SAMPLES + j) * programs + tl.program_id(0)
        tl.store(of_pair, tl.sum(tl.sum(product, 3), 2))


@triton.jit
def _merge(mean, m2, count, total, axis: tl.constexpr):
    """``K = sum count*mean / total`` and ``M2 = sum m2 + count*(mean - K)^2`` over lanes.

    ``K`` in two steps, and ``M2`` less what ``K`` is wrong by: in one, the rounding of
    a large sum would show where the mean is large against the deviation.
    """
    K = tl.sum(count * mean, axis, keep_dims=True) / total
    K += tl.sum(count * (mean - K), axis, keep_dims=True) / total
    deviation = mean - K
    squares = tl.sum(m2 + count * deviation * deviation, axis, keep_dims=True)
    left = tl.sum(count * deviation, axis, keep_dims=True)
    return K, squares - left * left / total


@triton.jit
def _moments_of_maps(
    parts, products, result, pairs, NC, M, length, splits, programs, blocks,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``K`` and ``V = M2 / M`` of each map, merged from its parts, ``ROWS`` at a time.

    Merging the next rows: ``K += step * share``, ``M2 += M2_rows + step^2 * seen * share``,
    with ``step = K_rows - K`` and their ``share`` of what has been seen by then.

    Each of the first ``blocks`` programs merges the parts of ``COLUMNS`` maps, each of
    the others adds up the products of one pair of samples.
    """
    program = tl.program_id(0)
    if program < blocks:
        column = program * COLUMNS + tl.arange(0, COLUMNS)[None, :]
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
            of_rows, m2_of_rows = _merge(mean, m2, count, total, 0)
            step = of_rows - K
            share = total / (seen + total)
            K += step * share
            M2 += m2_of_rows + step * step * seen * share
            seen += total
        V = M2 / M
        tl.store(result + column, K, column < NC)
        tl.store(result + NC + column, V, column < NC)
    else:
        pair = program - blocks
        entry = tl.arange(0, COLUMNS * ROWS)
        product = tl.zeros((COLUMNS * ROWS,), tl.float32)
        for start in range(0, programs, COLUMNS * ROWS):
            part = start + entry
            at = products + pair.to(tl.int64) * programs + part
            product += tl.load(at, part < programs, other=0)
        tl.store(pairs + pair, tl.sum(product, 0))
