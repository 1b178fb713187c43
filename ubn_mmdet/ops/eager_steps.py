"""What ``closed_form.py`` does with ``x``, in the passes of ``passes.py``.

``triton_steps.py`` has the same functions, and an ``algebra`` for what is in between. What
they share: coefficients are ``(N, C)`` or ``(C,)`` and may be None for 1 (weights) and 0
(all else); ``u`` is the gradient of ``z = weight * (x - pivot) / sqrt(var + eps) + bias``,
and ``z`` is the result or, with a kernel, what it is applied to.
"""

from torch import Tensor

from . import eager_algebra as algebra
from . import passes
from .eager_algebra import Sums

__all__ = ['algebra', 'apply', 'gradient', 'mean', 'moments', 'per_map', 'reduce']

mean = passes.mean


def moments(x: Tensor, gram: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """``K, V``, ``(N, C)`` each, and None where they cost another read of ``x``.

    Args:
        x: ``(N, C, H, W)``.
        gram: Whether the scalar products of all pairs of samples, ``(N, N)``, are wanted.
    """
    return *passes.moments(x), None


def per_map(x: Tensor, *coefficients: Tensor | None) -> list[Tensor | None]:
    """The coefficients, all ``(N, C)`` if any is."""
    if all(c is None or c.dim() == 1 for c in coefficients):
        return list(coefficients)
    return [passes.over_maps(c, x) for c in coefficients]


def apply(
    x: Tensor,
    pivot: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    var: Tensor,
    eps: float,
    kernel: Tensor | None,
    behind: Tensor | None,
) -> Tensor:
    """``z``, or ``depthwise(z; kernel) + behind``, in the dtype of ``x``."""
    y = passes.normalize(x, pivot, weight, bias, var, eps).to(x.dtype)
    return y if kernel is None else passes.depthwise(y, kernel, behind)


def reduce(
    dy: Tensor,
    x: Tensor,
    pivot: Tensor,
    weight: Tensor | None,
    var: Tensor,
    eps: float,
    kernel: Tensor | None,
) -> Sums:
    """The sums that the backward needs; with a kernel, ``z`` has no bias."""
    if kernel is None:
        return Sums(dy, *passes.sums(dy, x, pivot, var, eps))
    z = passes.normalize(x, pivot, weight, None, var, eps).to(x.dtype)
    u, of_kernel = passes.depthwise_backward(dy, z, kernel)
    of_behind = dy.sum(dim=(2, 3), dtype=pivot.dtype)
    return Sums(u, *passes.sums(u, x, pivot, var, eps), of_kernel, of_behind, spare=z)


def gradient(
    sums: Sums,
    kernel: Tensor | None,
    scale: Tensor,
    x: Tensor,
    pivot: Tensor | None,
    slope: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    """``scale * u + slope * (x - pivot) + offset`` in the dtype of ``x``."""
    given = scale, x, pivot, slope, offset
    return passes.combine(sums.handed, *given, sums.spare).to(x.dtype)
