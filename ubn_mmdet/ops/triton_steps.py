"""What ``closed_form.py`` does with ``x``, as Triton kernels; see ``eager_steps.py``.

Each step but the moments reads ``x`` once, with a kernel too: ``u``, of which there would
be another write and two reads, is never in memory. Importing this imports Triton.
"""

from torch import Tensor

from . import triton_algebra as algebra
from . import triton_kernels
from .algebra import gram as gram_of
from .eager_algebra import Sums
from .memory import memory_format

__all__ = ['algebra', 'apply', 'gradient', 'mean', 'moments', 'per_map', 'reduce']


def mean(x: Tensor) -> Tensor:
    """``K``, ``(N, C)``."""
    return moments(x, gram=False)[0]


def moments(x: Tensor, gram: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """``K, V``, ``(N, C)`` each, and the Gram matrix of the samples that are compared.

    For more samples than a kernel takes it costs another read of ``x``.
    """
    comes_along = gram and len(x) <= triton_kernels.GRAM_SAMPLES
    mean, var, products = triton_kernels.moments(_dense(x), comes_along)
    if gram and not comes_along:
        products = gram_of(x)
    return mean, var, products


def per_map(x: Tensor, *coefficients: Tensor | None) -> list[Tensor | None]:
    """The coefficients, all ``(N, C)``; views."""
    return [None if c is None else c.expand(x.shape[:2]) for c in coefficients]


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
    [behind] = per_map(x, behind)
    return triton_kernels.apply(
        _dense(x), pivot, weight, bias, kernel, behind, var, eps
    )


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
    x = _dense(x)
    dy = dy.contiguous(memory_format=memory_format(x))
    sums = triton_kernels.reduce(dy, x, pivot, weight, None, kernel, var, eps)
    return Sums(dy, sums.scale, sums.shift, sums.kernel, sums.bias)


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
    scales, *others = per_map(x, scale, pivot, slope, offset)
    assert scales is not None
    return triton_kernels.gradient(sums.handed, scales, kernel, _dense(x), *others)


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))
