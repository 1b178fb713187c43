"""From the backward's sums to all gradients but that of ``x``, in one launch.

With ranks to merge it takes two, one on each side of the collective.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..coefficients import Form, Learnt
from ..eager_algebra import Backward, Saved, Sums
from .apply import rows
from .launch import launch

CHANNELS = 128


class _Part(NamedTuple):
    """Which of the two halves, on either side of the collective, a launch does."""

    before: bool
    after: bool


BOTH, BEFORE, AFTER = _Part(True, True), _Part(True, False), _Part(False, True)


def gradients(
    sums: Sums,
    saved: Saved,
    learnt: Learnt,
    form: Form,
    to_maps: bool,
) -> Backward:
    """All of it, for one rank; arguments and result as in ``eager_algebra.backward``.

    All tensors are float32 and ``sums`` are ``(N, C)``.
    """
    result, _ = _launch(sums, saved, learnt, form, to_maps, BOTH)
    return result


def to_statistics(
    sums: Sums, saved: Saved, learnt: Learnt, form: Form
) -> tuple[Learnt, Tensor]:
    """The first half: what is learnt, and what ranks have to add up, ``(2, C)``.

    ``centering_weight``'s gradient is not among them.
    """
    result, statistics = _launch(sums, saved, learnt, form, True, BEFORE)
    assert statistics is not None
    return result.learnt, statistics


def to_maps(
    sums: Sums, saved: Saved, learnt: Learnt, form: Form, statistics: Tensor
) -> Backward:
    """The second half; of what is learnt it gives ``centering_weight``'s gradient alone."""
    result, _ = _launch(sums, saved, learnt, form, True, AFTER, statistics)
    return result


def _launch(
    sums: Sums,
    saved: Saved,
    learnt: Learnt,
    form: Form,
    to_maps: bool,
    part: _Part,
    statistics: Tensor | None = None,
) -> tuple[Backward, Tensor | None]:
    n, c = sums.weight.shape
    of_map = saved.mean is not None
    of_batch = saved.count is not None and to_maps
    to_maps = to_maps and part.after
    merged = isinstance(saved.count, Tensor)
    has = {name: value is not None for name, value in learnt._asdict().items()}
    centering, scaling = has['centering_weight'], has['scaling_weight']
    size = 1 if learnt.spatial_weight is None else learnt.spatial_weight.shape[-1]

    def empty(*shape: int, wanted: bool = True) -> Tensor | None:
        if not wanted:
            return None
        return torch.empty(shape, dtype=torch.float32, device=sums.weight.device)

    of_learnt = Learnt(
        weight=empty(c, wanted=has['weight'] and part.before),
        bias=empty(c, wanted=has['bias'] and part.before),
        spatial_weight=sums.kernel,
        centering_weight=empty(c, wanted=centering and to_maps),
        scaling_weight=empty(c, wanted=scaling and part.before),
        scaling_bias=empty(c, wanted=scaling and part.before),
    )
    maps = (n, c) if of_map else (c,)
    scale = empty(*maps, wanted=to_maps)
    slope = empty(c, wanted=to_maps and of_batch)
    offset = empty(*maps, wanted=to_maps and (of_map or of_batch))
    if part is BEFORE:
        statistics = empty(2, c)
    absent = sums.weight
    pivot, weight = (rows(t, absent) for t in (saved.pivot, saved.weight))
    of_centre = None if sums.kernel is None else sums.kernel[:, size // 2, size // 2]
    has_weight = has['weight'] and size == 1  # else it is in the kernel
    given = (
        sums.behind, of_centre, saved.mean, saved.var, saved.is_open, saved.sigmoid,
        learnt.weight if has_weight else None, learnt.bias,
        learnt.centering_weight, learnt.scaling_weight,
        saved.count if merged else None, statistics,
    )  # fmt: skip
    results = (
        of_learnt.weight, of_learnt.bias, of_learnt.centering_weight,
        of_learnt.scaling_weight, of_learnt.scaling_bias, scale, slope, offset,
    )  # fmt: skip
    launch(
        _gradients, triton.cdiv(c, CHANNELS),
        sums.weight, sums.bias, pivot, weight,
        *(absent if t is None else t for t in given + results),
        pivot.stride(0), weight.stride(0), n, c, saved.positions,
        0.0 if saved.count is None or merged else float(saved.count),
        form.eps, form.gate_factor,
        BEFORE=part.before, TO_MAPS=to_maps, TO_STATISTICS=part is BEFORE,
        OF_BATCH=of_batch, OF_MAP=of_map, MERGED=merged,
        GATE=saved.is_open is not None, MAP_WEIGHT=saved.weight is not None,
        WEIGHT=has_weight, BIAS=has['bias'],
        BIAS_IS_SCALED=form.bias_is_scaled, CENTERING=centering, SCALING=scaling,
        OF_KERNEL=has['weight'] and size > 1, SIZE=size, CHANNELS=CHANNELS,
    )  # fmt: skip
    about = saved.pivot if saved.mean is None else saved.mean
    result = Backward(of_learnt, scale, about, slope, offset)
    return result if to_maps else Backward(of_learnt), statistics


@triton.jit
def _gradients(
    e, t, pivot, map_weight, behind, of_centre, mean, var, is_open, sigmoid,
    weight, bias, centering, scaling, count, statistics,
    weight_, bias_, centering_, scaling_, level_, scale_, slope_, offset_,
    of_pivot, of_weight, N, C, M, total, eps, gate_factor,
    BEFORE: tl.constexpr, TO_MAPS: tl.constexpr, TO_STATISTICS: tl.constexpr,
    OF_BATCH: tl.constexpr, OF_MAP: tl.constexpr, MERGED: tl.constexpr,
    GATE: tl.constexpr, MAP_WEIGHT: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, BIAS_IS_SCALED: tl.constexpr,
    CENTERING: tl.constexpr, SCALING: tl.constexpr,
    OF_KERNEL: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The formulas and their letters are those of ``ops/coefficients.py``.

    Results have a trailing ``_``. What is absent is neither read nor written.
    """
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    none = tl.zeros((CHANNELS,), tl.float32)
    shifted_var = tl.load(var + c, is_channel, other=1) + eps
    r = tl.rsqrt(shifted_var)
    w, b, w_v = none + 1, none, none
    if WEIGHT:
        w = tl.load(weight + c, is_channel, other=0)
    if BIAS and BIAS_IS_SCALED:
        b = tl.load(bias + c, is_channel, other=0)
    if SCALING:
        w_v = tl.load(scaling + c, is_channel, other=0)

    if BEFORE:
        sum_e, sum_t, sum_b, sum_z, sum_zP = none, none, none, none, none
        for n in range(N):
            at = n * C + c
            se, st, of_b, z = _of_map(
                e, t, behind, sigmoid, w, b, gate_factor, at, is_channel,
                SCALING, BIAS_IS_SCALED, SIZE,
            )  # fmt: skip
            if SCALING:
                K = tl.load(mean + at, is_channel, other=0)
                P = r * (K - tl.load(pivot + n * of_pivot + c, is_channel, other=0))
                sum_z += z
                sum_zP += z * P
            sum_e += se
            sum_t += st
            sum_b += of_b
        if WEIGHT:
            tl.store(weight_ + c, sum_e, is_channel)
        if OF_KERNEL:
            of_weight_ = tl.load(of_centre + c * (SIZE * SIZE), is_channel)
            tl.store(weight_ + c, of_weight_, is_channel)
        if BIAS:
            tl.store(bias_ + c, sum_b, is_channel)
        if SCALING:
            tl.store(scaling_ + c, sum_zP, is_channel)
            tl.store(level_ + c, sum_z, is_channel)
        if OF_BATCH:
            of_mu = -r * (w * sum_t + w_v * sum_z)
            of_var = -0.5 * (w * sum_e + w_v * sum_zP) / shifted_var
            if GATE:
                opened = tl.load(is_open).to(tl.float32)
                of_mu *= opened
                of_var *= opened
            if TO_STATISTICS:
                tl.store(statistics + c, of_mu, is_channel)
                tl.store(statistics + C + c, of_var, is_channel)
    elif OF_BATCH:
        of_mu = tl.load(statistics + c, is_channel, other=0)
        of_var = tl.load(statistics + C + c, is_channel, other=0)

    if TO_MAPS:
        share = 0.0
        if OF_BATCH:
            if MERGED:
                total = tl.maximum(tl.load(count), 1).to(tl.float32)
            share = M / total
            tl.store(slope_ + c, of_var * (2 / total), is_channel)
        if OF_MAP:
            w_m, sum_m = none, none
            if CENTERING:
                w_m = tl.load(centering + c, is_channel, other=0)
            for n in range(N):
                at = n * C + c
                K = tl.load(mean + at, is_channel, other=0)
                deviation = K - tl.load(pivot + n * of_pivot + c, is_channel, other=0)
                _, st, _, z = _of_map(
                    e, t, behind, sigmoid, w, b, gate_factor, at, is_channel,
                    SCALING, BIAS_IS_SCALED, SIZE,
                )  # fmt: skip
                of_centred = r * (w * st + w_v * z)
                if OF_BATCH:
                    of_centred += share * (of_mu + 2 * of_var * deviation)
                sum_m += K * of_centred
                of_mean = of_centred + w_m * of_centred - r * w * st
                tl.store(offset_ + at, of_mean / M, is_channel)
                scale = r
                if MAP_WEIGHT:
                    scale *= tl.load(
                        map_weight + n * of_weight + c, is_channel, other=0
                    )
                tl.store(scale_ + at, scale, is_channel)
            if CENTERING:
                tl.store(centering_ + c, sum_m, is_channel)
        else:
            scale = r
            if MAP_WEIGHT:
                scale *= tl.load(map_weight + c, is_channel, other=0)
            tl.store(scale_ + c, scale, is_channel)
            if OF_BATCH:
                tl.store(offset_ + c, of_mu / total, is_channel)


@triton.jit
def _of_map(
    e, t, behind, sigmoid, w, b, gate_factor, at, is_channel,
    SCALING: tl.constexpr, BIAS_IS_SCALED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """``s*e``, ``s*t``, what the bias gets, and ``dz``, of one map of each channel."""
    se = tl.load(e + at, is_channel, other=0)
    st = tl.load(t + at, is_channel, other=0)
    of_b = st
    if SIZE > 1:
        of_b = tl.load(behind + at, is_channel, other=0)
    z = tl.zeros_like(se)
    if SCALING:
        sig = tl.load(sigmoid + at, is_channel, other=0)
        se *= gate_factor * sig
        st *= gate_factor * sig
        if BIAS_IS_SCALED:
            of_b *= gate_factor * sig
        z = (w * se + b * of_b) * (1 - sig)
    return se, st, of_b, z
