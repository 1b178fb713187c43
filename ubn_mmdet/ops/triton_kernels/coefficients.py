"""From moments to coefficients, and the averages moved on the way, in one launch.

With ranks to merge it takes two, one on each side of the collective: ``pack`` and
``coefficients``.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..coefficients import Form, Learnt
from ..normalizer import Averages
from .launch import launch

# One program does all of it: whether a batch moves the averages is a question to all
# channels at once.
MAX_CHANNELS = 4096
MAX_SAMPLES = 64
WARPS = 8


class Result(NamedTuple):
    """What :func:`coefficients` gives; shapes and absences as in ``Coefficients``.

    Attributes:
        mean: To normalise with, ``(C,)``, as is ``var``.
        var: Biased.
        is_open: ``()`` bool; None for certain.
        pivot: ``(N, C)``; None where it is ``mean``.
        weight: ``(N, C)``; None without scaling gate, as are the next two.
        bias: ``(N, C)`` or None.
        sigmoid: ``(N, C)``.
        kernel: ``(C, k, k)``; None without a depthwise kernel.
    """

    mean: Tensor
    var: Tensor
    is_open: Tensor | None
    pivot: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    sigmoid: Tensor | None
    kernel: Tensor | None


def pack(
    mean: Tensor,
    var: Tensor,
    gram: Tensor | None,
    centering_weight: Tensor | None,
    count: int,
) -> Tensor:
    """What ranks add up, float64: of the centred elements the sums and those of squares.

    Behind the ``(2C,)`` come, with ``gram``, the sum of cosines and how many there are;
    and the number of elements of a channel.

    Args:
        mean: ``K``, ``(N, C)`` float32, as is ``var``.
        var: ``V``.
        gram: The products of all pairs of the samples that are compared, ``(S, S)``
            float32; None for no gate.
        centering_weight: ``(C,)`` float32, or None.
        count: Elements of a channel.
    """
    n, c = mean.shape
    sums = torch.empty(
        2 * c + 1 + 2 * (gram is not None), dtype=torch.float64, device=mean.device
    )
    launch(
        _pack, 1,
        mean, var, mean if gram is None else gram,
        mean if centering_weight is None else centering_weight, sums,
        n, c, *_compared(gram), count,
        CENTERING=centering_weight is not None, GRAM=gram is not None,
        **_sizes(gram, c),
    )  # fmt: skip
    return sums


def coefficients(
    mean: Tensor,
    var: Tensor,
    gram: Tensor | None,
    learnt: Learnt,
    form: Form,
    averages: Averages,
    count: int,
    merged: Tensor | None = None,
) -> Result:
    """The statistics of a batch and all that follows from them; moves the averages.

    Args:
        mean: ``K``, ``(N, C)`` float32, as is ``var``; no more than
            ``MAX_SAMPLES, MAX_CHANNELS``.
        var: ``V``.
        gram: As for :func:`pack`; read for a gate alone.
        learnt: Parameters, float32 each.
        form: Settings.
        averages: Moved, if they are to be. Float32 each.
        count: Elements of a channel.
        merged: The sum of what :func:`pack` gave on all ranks; None for one rank.
    """
    n, c = mean.shape
    gates = averages.condensation is not None
    if not gates:
        gram = None
    of_map = learnt.differs_by_sample
    scales = learnt.scaling_weight is not None
    size = 1 if learnt.spatial_weight is None else learnt.spatial_weight.shape[-1]
    # A depthwise kernel has the weight in it, and the bias behind it.
    has_weight = learnt.weight is not None and size == 1
    gates_bias = scales and learnt.bias is not None and form.bias_is_scaled

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=mean.device)

    result = Result(
        mean=empty(c),
        var=empty(c),
        is_open=empty(dtype=torch.bool) if gates or merged is not None else None,
        pivot=empty(n, c) if learnt.centering_weight is not None else None,
        weight=empty(n, c) if scales else None,
        bias=empty(n, c) if gates_bias else None,
        sigmoid=empty(n, c) if scales else None,
        kernel=empty(c, size, size) if size > 1 else None,
    )
    given = [mean if t is None else t for t in (gram, merged, *learnt)]
    launch(
        _coefficients, 1,
        mean, var, *given,
        averages.mean, averages.var, averages.batches,
        averages.condensation if gates else mean,
        *(mean if t is None else t for t in result),
        n, c, *_compared(gram), float(count),
        form.eps, form.gate_factor,
        1.0 if averages.momentum is None else averages.momentum,
        averages.condensation_momentum, averages.threshold,
        MERGED=merged is not None, GATE=gates, MOVES=averages.moves,
        CUMULATIVE=averages.momentum is None, ABOVE=averages.opens_above,
        OF_MAP=of_map, CENTERING=learnt.centering_weight is not None, SCALING=scales,
        WEIGHT=has_weight, BIAS=gates_bias, SIZE=size,
        **_sizes(gram, c),
    )  # fmt: skip
    return result


def _compared(gram: Tensor | None) -> tuple[int, int]:
    """How many samples are compared, and how far apart the rows of their products are."""
    return (0, 0) if gram is None else (len(gram), gram.stride(0))


def _sizes(gram: Tensor | None, channels: int) -> dict[str, int]:
    samples = 1 if gram is None else triton.next_power_of_2(len(gram))
    return {
        'SAMPLES': samples,
        'CHANNELS': triton.next_power_of_2(channels),
        'num_warps': WARPS,
    }


@triton.jit
def _pack(
    mean, var, gram, centering, sums, N, C, S, of_row, count,
    CENTERING: tl.constexpr, GRAM: tl.constexpr,
    SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, CHANNELS)
    is_channel = c < C
    mu, variance = _of_batch(mean, var, centering, c, is_channel, N, C, CENTERING)
    mu = mu.to(tl.float64)
    tl.store(sums + c, count * mu, is_channel)
    tl.store(sums + C + c, count * (variance.to(tl.float64) + mu * mu), is_channel)
    at = sums + 2 * C
    if GRAM:
        tl.store(at, _cosines(gram, of_row, S, SAMPLES).to(tl.float64))
        tl.store(at + 1, tl.cast(S * (S - 1), tl.float64))
        at += 2
    tl.store(at, tl.cast(count, tl.float64))


@triton.jit
def _coefficients(
    mean, var, gram, merged, weight, bias, spatial, centering, scaling, level,
    running_mean, running_var, batches, condensation,
    mu_, var_, is_open_, pivot_, weight_, bias_, sigmoid_, kernel_,
    N, C, S, of_row, count, eps, gate_factor, momentum, condensation_momentum, threshold,
    MERGED: tl.constexpr, GATE: tl.constexpr, MOVES: tl.constexpr,
    CUMULATIVE: tl.constexpr, ABOVE: tl.constexpr,
    OF_MAP: tl.constexpr, CENTERING: tl.constexpr, SCALING: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, SIZE: tl.constexpr,
    SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Results have a trailing ``_``. What is absent is neither read nor written."""
    c = tl.arange(0, CHANNELS)
    is_channel = c < C
    if MERGED:
        last = merged + 2 * C
        if GATE:
            last += 2
        total = tl.load(last)
        exists = total > 0
        share = 1 / tl.maximum(total, 1)
        wide = share * tl.load(merged + c, is_channel, other=0)
        squares = share * tl.load(merged + C + c, is_channel, other=0) - wide * wide
        mu = wide.to(tl.float32)
        variance = tl.where(squares < 0, 0, squares).to(tl.float32)  # nan stays
        unbiased = variance * (total / (total - 1)).to(tl.float32)
    else:
        mu, variance = _of_batch(mean, var, centering, c, is_channel, N, C, CENTERING)
        unbiased = variance * (count / (count - 1))

    # One question for all averages: one that is not finite would be spoilt for good.
    is_finite = (tl.abs(unbiased) < float('inf')) | (c >= C)
    moves = tl.min(is_finite.to(tl.int32), 0) > 0
    if MERGED:
        moves = moves & exists
        is_open = exists
    if GATE:
        if MERGED:
            cosines = tl.load(merged + 2 * C)
            pairs = tl.load(merged + 2 * C + 1)
        else:
            cosines = _cosines(gram, of_row, S, SAMPLES)
            pairs = tl.cast(S * (S - 1), tl.float32)  # S may be a constant
        alike = tl.where(pairs > 0, cosines / tl.maximum(pairs, 1.0), 1.0)
        alike = alike.to(tl.float32)
        moves = moves & (tl.abs(alike) < float('inf'))
        average = tl.load(condensation)
        if MOVES:
            target = tl.where(moves, alike, average)
            average = _lerp(average, target, condensation_momentum)
            tl.store(condensation, average)
        passes = average > threshold if ABOVE else average <= threshold
        is_open = passes & exists if MERGED else passes
        moves = moves & is_open
    if GATE or MERGED:
        tl.store(is_open_, is_open)
        old_mean = tl.load(running_mean + c, is_channel, other=0)
        old_var = tl.load(running_var + c, is_channel, other=1)
        chosen_mu = tl.where(is_open, mu, old_mean)
        chosen_var = tl.where(is_open, variance, old_var)
    else:
        chosen_mu, chosen_var = mu, variance
    if MOVES:
        known = tl.load(batches) + moves.to(tl.int64)
        tl.store(batches, known)
        step = momentum
        if CUMULATIVE:
            step = 1 / tl.maximum(known, 1).to(tl.float32)
        old = tl.load(running_mean + c, is_channel, other=0)
        new = _lerp(old, tl.where(moves, mu, old), step)
        tl.store(running_mean + c, new, is_channel)
        old = tl.load(running_var + c, is_channel, other=1)
        new = _lerp(old, tl.where(moves, unbiased, old), step)
        tl.store(running_var + c, new, is_channel)

    mu, variance = chosen_mu, chosen_var
    tl.store(mu_ + c, mu, is_channel)
    tl.store(var_ + c, variance, is_channel)
    w_m = _channels(centering, c, is_channel, CENTERING)
    w_v = _channels(scaling, c, is_channel, SCALING)
    w_b = _channels(level, c, is_channel, SCALING)
    w = _channels(weight, c, is_channel, WEIGHT)
    b = _channels(bias, c, is_channel, BIAS)
    inv_std = tl.rsqrt(variance + eps)
    if OF_MAP:
        for n in range(N):
            at = n * C + c
            K = tl.load(mean + at, is_channel, other=0)
            pivot = mu
            if CENTERING:
                pivot = mu - w_m * K
                tl.store(pivot_ + at, pivot, is_channel)
            if SCALING:
                sigmoid = tl.sigmoid(w_v * (inv_std * (K - pivot)) + w_b)
                tl.store(sigmoid_ + at, sigmoid, is_channel)
                gate = gate_factor * sigmoid
                if WEIGHT:
                    tl.store(weight_ + at, gate * w, is_channel)
                else:
                    tl.store(weight_ + at, gate, is_channel)
                if BIAS:
                    tl.store(bias_ + at, gate * b, is_channel)
    if SIZE > 1:
        w = tl.load(weight + c, is_channel, other=0)
        for tap in tl.static_range(SIZE * SIZE):
            at = c * (SIZE * SIZE) + tap
            value = tl.load(spatial + at, is_channel, other=0)
            if tap == SIZE * SIZE // 2:
                value += w
            tl.store(kernel_ + at, value, is_channel)


@triton.jit
def _of_batch(mean, var, centering, c, is_channel, N, C, CENTERING: tl.constexpr):
    """Mean and biased variance of the centred elements of each channel.

    The variance within maps and that between them: nothing cancels.
    """
    grown = 1 + _channels(centering, c, is_channel, CENTERING)
    total = tl.zeros_like(grown)
    for n in range(N):
        total += grown * tl.load(mean + n * C + c, is_channel, other=0)
    mu = total / N
    squares = tl.zeros_like(grown)
    for n in range(N):
        at = n * C + c
        deviation = grown * tl.load(mean + at, is_channel, other=0) - mu
        squares += tl.load(var + at, is_channel, other=0) + deviation * deviation
    return mu, squares / N


@triton.jit
def _cosines(gram, of_row, S, SAMPLES: tl.constexpr):
    """The sum over all pairs of different samples; a sample of zeros has none."""
    i = tl.arange(0, SAMPLES)[:, None]
    j = tl.arange(0, SAMPLES)[None, :]
    products = tl.load(gram + i * of_row + j, (i < S) & (j < S), other=0)
    squares = tl.where(i == j, products, 0)
    tiny = 1.1754943508222875e-38  # the least normal number: no division by zero
    of_i = tl.rsqrt(tl.maximum(tl.sum(squares, 1), tiny))[:, None]
    of_j = tl.rsqrt(tl.maximum(tl.sum(squares, 0), tiny))[None, :]
    return tl.sum(tl.sum(tl.where(i == j, 0, products * of_i * of_j), 1), 0)


@triton.jit
def _channels(parameter, c, is_channel, EXISTS: tl.constexpr):
    """One number a channel; zeros where there is none."""
    value = tl.zeros_like(c).to(tl.float32)
    if EXISTS:
        value = tl.load(parameter + c, is_channel, other=0)
    return value


@triton.jit
def _lerp(start, end, step):
    """As PyTorch has it: exactly ``end`` at a step of one."""
    return tl.where(
        step < 0.5, start + step * (end - start), end - (end - start) * (1 - step)
    )
