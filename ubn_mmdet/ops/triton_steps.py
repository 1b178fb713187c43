"""What ``closed_form.py`` does with ``x``, as Triton kernels; see ``eager_steps.py``.

Each step but the moments reads ``x`` once, with a kernel too: ``u``, of which there would
be another write and two reads, is never in memory. Importing this imports Triton.
"""

from torch import Tensor

from . import triton_kernels
from .eager_steps import Sums
from .memory import memory_format


def mean(x: Tensor) -> Tensor:
    """``K``, ``(N, C)``."""
    return moments(x, gram=False)[0]


def moments(x: Tensor, gram: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """``K, V``, ``(N, C)`` each; for few samples the Gram matrix, if it is wanted."""
    gram = gram and len(x) <= triton_kernels.GRAM_SAMPLES
    return triton_kernels.moments(_dense(x), gram)


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
    handed: Tensor,
    kernel: Tensor | None,
    scale: Tensor,
    x: Tensor,
    pivot: Tensor | None,
    slope: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    """``scale * u + slope * (x - pivot) + offset`` in the dtype of ``x``."""
    scale, pivot, slope, offset = per_map(x, scale, pivot, slope, offset)
    return triton_kernels.gradient(
        handed, scale, kernel, _dense(x), pivot, slope, offset
    )


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))
