"""The closed form between the passes over ``x``: forward, and backward by hand.

Every layer that it serves is a BatchNorm in which each map has a mean, a weight and a
bias of its own:

    y = weight * xhat + bias,    xhat = r * (x - pivot),    r = 1 / sqrt(var + eps)

with ``pivot``, ``weight`` and ``bias`` ``(N, C)`` (``(C,)`` where all samples share
them), and ``var`` ``(C,)``. With a depthwise kernel that is its input, and a bias comes
behind it. From the maps' means ``K``, the statistics ``mu, var`` and what is learnt:

    pivot = mu - w_m * K                    centering
    P = GAP(xhat) = r * (K - pivot)
    s = sigmoid(w_v * P + w_b) / sigmoid(b0)    scaling
    weight = s * w,  bias = s * b           affine

Backward starts from two sums over the positions of each map, with ``u`` the gradient of
``y`` (for a depthwise kernel, of its input): ``e = sum u*xhat`` and ``t = sum u``. They
are the gradients of ``weight`` and ``bias``, and all others follow:

    dw   = sum_n s*e               dw_v = sum_n dz*P    with dz = (w*e + b*t) * ds/dz
    db   = sum_n s*t               dw_b = sum_n dz
    dP   = s*w*t + w_v*dz
    dmu  = -r       * (w*sum_n s*t + w_v*dw_b)
    dvar = -r^2 / 2 * (w*dw        + w_v*dw_v)

These last two are what ranks have to add up, so each direction comes as two functions,
one before and one after the collective. With ``T`` the elements of a channel on all ranks
and ``M`` those of a map:

    dK' = r*dP + M/T * (dmu + 2*dvar*(K - pivot))    gradient of the centred mean
    dw_m = sum_n K*dK'
    dK  = (1 + w_m)*dK' - r*s*w*t
    dx  = r*s*w*dy + 2*dvar/T * (x - K) + dK/M

Pure functions, without a graph: tensors come in and go out, in the dtype of statistics.
``closed_form.py`` makes one differentiable function of them and of the passes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import constants


class Learnt(NamedTuple):
    """What a layer learns; None for what it does not have.

    ``spatial_weight`` is ``(C, k, k)``, the others are ``(C,)``.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    spatial_weight: Tensor | None = None
    centering_weight: Tensor | None = None
    scaling_weight: Tensor | None = None
    scaling_bias: Tensor | None = None

    @property
    def differs_by_sample(self) -> bool:
        """Whether samples have coefficients of their own, by their means."""
        return self.centering_weight is not None or self.scaling_weight is not None


class Form(NamedTuple):
    """Settings of the closed form.

    Attributes:
        eps: Added to the variance.
        initial_bias: ``b0``, which the scaling gate is normalised by.
        bias_is_scaled: Whether the scaling gate acts on the bias as well.
        needs_gram: Whether the products of all pairs of samples are of use.
    """

    eps: float
    initial_bias: float = 1.0
    bias_is_scaled: bool = True
    needs_gram: bool = False

    @property
    def gate_factor(self) -> float:
        """``1 / sigmoid(b0)``."""
        return 1 + math.exp(-self.initial_bias)


class Coefficients(NamedTuple):
    """What the apply needs, ``(N, C)`` or ``(C,)`` each; None for 1 and 0.

    Attributes:
        pivot: Subtracted from ``x``.
        weight: Multiplies ``xhat``.
        bias: Added; with a depthwise kernel None.
        kernel: ``(C, k, k)``, of a depthwise kernel.
        behind: Added behind the depthwise kernel.
        sigmoid: The scaling gate before it is normalised; for backward.
    """

    pivot: Tensor
    weight: Tensor | None
    bias: Tensor | None
    kernel: Tensor | None = None
    behind: Tensor | None = None
    sigmoid: Tensor | None = None


def coefficients(
    mean: Tensor | None,
    centred: Tensor | None,
    mu: Tensor,
    var: Tensor,
    learnt: Learnt,
    form: Form,
) -> Coefficients:
    """What the apply needs.

    Args:
        mean: ``K``, ``(N, C)``; None where all samples share the coefficients.
        centred: ``K + w_m * K``, ``(N, C)``, or None.
        mu: What to normalise with, ``(C,)``, as is ``var``.
        var: Biased.
        learnt: Parameters, in the dtype of the statistics.
        form: Settings.
    """
    weight, bias, spatial_weight, w_m, w_v, w_b = learnt
    pivot, sigmoid = mu, None
    if w_m is not None:
        assert mean is not None
        pivot = torch.addcmul(mu, w_m, mean, value=-1)
    if w_v is not None:  # w_v * P + w_b is a BatchNorm of the means
        assert centred is not None
        z, _, _ = torch.native_batch_norm(
            centred, w_v, w_b, mu, var, False, 0.0, form.eps
        )
        sigmoid = torch.sigmoid(z)
    if spatial_weight is None:
        if bias is not None and form.bias_is_scaled:
            bias = _gated(sigmoid, bias, form)
        weight = _gated(sigmoid, weight, form)
        return Coefficients(pivot, weight, bias, sigmoid=sigmoid)
    assert weight is not None  # what comes with a kernel
    gate = _gated(sigmoid, None, form)  # one number a map: it may act before the kernel
    if gate is not None and bias is not None and form.bias_is_scaled:
        bias = gate * bias
    delta = constants.delta(spatial_weight.shape[-1], spatial_weight)
    kernel = torch.addcmul(spatial_weight, weight.unsqueeze(1).unsqueeze(2), delta)
    return Coefficients(pivot, gate, None, kernel, bias, sigmoid)


def _gated(sigmoid: Tensor | None, value: Tensor | None, form: Form) -> Tensor | None:
    """``s * value``, where None is 1."""
    if sigmoid is None:
        return value
    if value is None:
        return sigmoid * form.gate_factor
    return scaled_product(sigmoid, value, form.gate_factor)


def scaled_product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """``factor * a * b`` in one operation."""
    return torch.addcmul(constants.zero(a), a, b, value=factor)


class ToStatistics(NamedTuple):
    """Backward up to the statistics, which ranks have to add up.

    Attributes:
        learnt: The gradients of what is learnt, but for the depthwise kernel's and
            ``centering_weight``'s.
        statistics: ``dmu, dvar``, ``(2, C)``; None where they are held constant.
        pooled: ``dP``, ``(N, C)``; None where samples share the coefficients.
        direct: ``s*w*t``, likewise.
        inv_std: ``r``, ``(C,)``.
        deviation: ``K - pivot``, ``(N, C)`` or None.
    """

    learnt: Learnt
    statistics: Tensor | None
    pooled: Tensor | None
    direct: Tensor | None
    inv_std: Tensor
    deviation: Tensor | None


def backward_to_statistics(
    of_weight: Tensor,
    of_bias: Tensor,
    of_behind: Tensor | None,
    mean: Tensor | None,
    var: Tensor,
    pivot: Tensor,
    sigmoid: Tensor | None,
    is_open: Tensor | None,
    learnt: Learnt,
    form: Form,
    of_batch: bool,
) -> ToStatistics:
    """From the apply's sums to the gradients of parameters and statistics.

    Args:
        of_weight: ``e``, ``(N, C)``, or ``(C,)`` where all samples share coefficients.
        of_bias: ``t``, likewise.
        of_behind: Of the bias behind a depthwise kernel, likewise; None without one.
        mean: ``K``, ``(N, C)`` or None.
        var: What forward normalised with, ``(C,)``.
        pivot: Forward's.
        sigmoid: Forward's.
        is_open: ``()`` bool, whether the statistics were the batch's; None for certain.
        learnt: Parameters.
        form: Settings.
        of_batch: Whether the statistics may be the batch's at all.
    """
    weight, bias, spatial_weight, _, w_v, _ = learnt
    if spatial_weight is not None:
        weight = None  # it is in the kernel
    shifted_var = var + form.eps
    inv_std = torch.rsqrt(shifted_var)
    deviation = None if mean is None else mean - pivot

    scaled_e, scaled_t = of_weight, of_bias  # s*e, s*t
    if sigmoid is not None:
        scaled_e = scaled_product(sigmoid, of_weight, form.gate_factor)
        scaled_t = scaled_product(sigmoid, of_bias, form.gate_factor)
    of_b = scaled_t if form.bias_is_scaled else of_bias
    if of_behind is not None:
        of_b = of_behind
        if sigmoid is not None and form.bias_is_scaled:
            of_b = scaled_product(sigmoid, of_behind, form.gate_factor)
    total_e, total_t = _over_samples(scaled_e), _over_samples(scaled_t)

    direct = _times(weight, scaled_t)
    of_pooled = direct
    grad = {}
    if weight is not None:
        grad['weight'] = total_e
    if bias is not None:
        grad['bias'] = total_t if of_b is scaled_t else _over_samples(of_b)
    if sigmoid is not None:
        assert w_v is not None and deviation is not None
        dz = _times(weight, scaled_e)  # s * ds
        if bias is not None and form.bias_is_scaled:
            dz = torch.addcmul(dz, bias, of_b)
        dz = torch.addcmul(dz, dz, sigmoid, value=-1)
        grad['scaling_weight'] = (dz * (inv_std * deviation)).sum(dim=0)
        grad['scaling_bias'] = dz.sum(dim=0)
        of_pooled = torch.addcmul(direct, w_v, dz)

    statistics = None
    if of_batch:
        of_mu, of_var = _times(weight, total_t), _times(weight, total_e)
        if w_v is not None:
            of_mu = torch.addcmul(of_mu, w_v, grad['scaling_bias'])
            of_var = torch.addcmul(of_var, w_v, grad['scaling_weight'])
        statistics = var.new_empty(2, len(var))
        zero = constants.zero(var)
        torch.addcmul(zero, of_mu, inv_std, value=-1, out=statistics[0])
        torch.addcdiv(zero, of_var, shifted_var, value=-0.5, out=statistics[1])
        if is_open is not None:
            statistics *= is_open
    is_shared = mean is None
    return ToStatistics(
        Learnt(**grad),
        statistics,
        None if is_shared else of_pooled,
        None if is_shared else direct,
        inv_std,
        deviation,
    )


class ToMaps(NamedTuple):
    """Backward up to ``dx = scale*u + slope*(x - pivot) + offset``.

    ``(N, C)`` or ``(C,)`` each; ``slope`` is None for 0 and then ``pivot`` as well,
    ``offset`` None for 0.
    """

    pivot: Tensor | None
    slope: Tensor | None
    offset: Tensor | None
    centering_weight: Tensor | None


def backward_to_maps(
    back: ToStatistics,
    statistics: Tensor | None,
    mean: Tensor | None,
    pivot: Tensor,
    learnt: Learnt,
    positions: int,
    total: int | Tensor | None,
) -> ToMaps:
    """From the gradients of the statistics, of all ranks, to those of the maps.

    Args:
        back: What came before.
        statistics: ``dmu, dvar``, ``(2, C)``, added up over ranks; None where constant.
        mean: ``K``, ``(N, C)`` or None.
        pivot: Forward's.
        learnt: Parameters.
        positions: ``M``, elements of a map.
        total: ``T``, elements of a channel on all ranks; None where constant.
    """
    w_m = learnt.centering_weight
    if mean is None:
        if statistics is None:
            return ToMaps(None, None, None, None)
        assert total is not None
        of_mu, of_var = statistics
        return ToMaps(pivot, of_var * (2 / total), of_mu / total, None)
    assert back.pooled is not None and back.direct is not None  # as of all with a mean
    of_centred = back.inv_std * back.pooled
    slope = None
    if statistics is not None:
        assert back.deviation is not None and total is not None
        of_mu, of_var = statistics
        by_statistics = torch.addcmul(of_mu, of_var, back.deviation, value=2)
        share = positions / total
        if isinstance(share, Tensor):
            of_centred = torch.addcmul(of_centred, by_statistics, share)
        else:
            of_centred = of_centred.add_(by_statistics, alpha=share)
        slope = of_var.expand_as(mean) * (2 / total)
    of_mean, of_centering = of_centred, None
    if w_m is not None:
        of_centering = (mean * of_centred).sum(dim=0)
        of_mean = torch.addcmul(of_centred, w_m, of_centred)
    of_mean = torch.addcmul(of_mean, back.inv_std, back.direct, value=-1)
    return ToMaps(mean, slope, of_mean / positions, of_centering)


def _times(weight: Tensor | None, value: Tensor) -> Tensor:
    return value if weight is None else weight * value


def _over_samples(value: Tensor) -> Tensor:
    return value.sum(dim=0) if value.dim() == 2 else value
