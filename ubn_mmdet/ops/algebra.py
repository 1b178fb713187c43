"""The closed form of Unified Batch Normalization: the algebra on ``(N, C)`` tensors.

Source: "Unified Batch Normalization", arXiv 2311.15993. The definition's stages
(condensation, centering, statistics, scaling, affine) need no pass of their own: up to
the depthwise convolution the layer is an affine map of ``x`` for each sample and channel,
and all its coefficients follow from the mean ``K`` and the biased variance ``V`` of each
sample and channel over positions. docs/how-it-works.md derives this.

Shapes: ``x`` is ``(N, C, H, W)``; ``K`` and ``V`` are ``(N, C)``; statistics and
parameters are ``(C,)``. All but ``x`` is in :func:`compute_dtype`, at least float32: sums
of float16 overflow.

The passes over ``x`` itself, reductions to moments and the apply that writes the result,
are in ``reference.py`` and ``fused.py``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CONDENSATION_SAMPLES = 16
GRAM_SAMPLES = 4  # and more, if that takes no more than
GRAM_PRODUCTS = 2**20
BLOCK = 2**18  # elements that fit a processor's cache


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of statistics and coefficients for input ``x``: float32 or wider."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- condensation: how alike the samples of a batch are -----------------------------
#
# In two steps, because summaries of disjoint sets of samples add up, condensations do not.


def flat_summary(
    x: Tensor, mean: Tensor, var: Tensor, gram: Tensor | None = None
) -> tuple[Tensor, int]:
    """Sum of the cosines between samples flattened over C, H, W, and pairs' number.

    ``(1,)``, over all ordered pairs of different samples among the first 16. A sample of
    zeros has cosine 0 with every other. Not differentiated. Where ``gram``, the products
    of all pairs of 16 samples at most, ``(N, N)``, is known, ``x`` is not read; ``gram``
    is changed.

    One read of ``x``. Few samples: from the products of all pairs, the Gram matrix. For
    many that is more arithmetic than reading them: with ``u = sum_n x_n / |x_n|`` the sum
    is ``|u|^2 - n``, and ``|x_n|^2`` is ``H*W * sum_c (V + K^2)``. Two samples, the usual
    number on a GPU's share of a detector's batch, have one product: a matrix of that shape
    takes a CPU five times as long.
    """
    n = _samples(x)
    with torch.no_grad():
        if gram is not None:
            return _cosines_of_gram(gram).view(1), n * (n - 1)
        x, mean, var = x[:n], mean[:n], var[:n]
        rows, dtype, positions = _rows(x), mean.dtype, x.shape[2] * x.shape[3]
        if n == 2 and x.device.type == 'cpu':
            inverse = _inverse_norm(_mean_squares(mean, var))
            cosines = _product(rows, dtype) * inverse.prod() * (2 / positions)
        elif n <= GRAM_SAMPLES or n * x.numel() <= GRAM_PRODUCTS:
            cosines = _cosines_of_gram(_products(rows, dtype))
        else:
            squares = positions * _mean_squares(mean, var)
            total = _squared_norm_of_sum(rows, _inverse_norm(squares))
            cosines = total - squares.count_nonzero()
        return cosines.view(1), n * (n - 1)


def _rows(x: Tensor) -> Tensor:
    """``(N, C*H*W)``, the elements in the order of memory: any serves."""
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1)


def gram(x: Tensor) -> Tensor:
    """``(n, n)``, the scalar products of all pairs among the first ``n <= 16`` samples."""
    return _products(_rows(x[:CONDENSATION_SAMPLES]), compute_dtype(x))


def _mean_squares(mean: Tensor, var: Tensor) -> Tensor:
    """``(N,)``, the sum over channels of the mean square over positions."""
    return torch.addcmul(var, mean, mean).sum(dim=1)


def _product(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """``()``, the scalar product of two rows."""
    # A part at a time where a wider copy is needed.
    parts = [rows] if rows.dtype == dtype else blocks(rows, dim=1)
    products = [torch.dot(*part.to(dtype)) for part in parts]
    return sum(products[1:], products[0])


def _products(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """``(N, N)``, the products of all pairs of rows."""
    products = []
    for part in blocks(rows, dim=1):
        part = part.to(dtype)
        products.append(part @ part.t())
    return sum(products[1:], products[0])


def _cosines_of_gram(gram: Tensor) -> Tensor:
    """``()``, the sum over all pairs of different samples; changes ``gram``."""
    squares = gram.diagonal()
    inverse = _inverse_norm(squares)
    squares.zero_()
    return torch.dot(inverse, gram @ inverse)


def _squared_norm_of_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """``|sum_n weights_n x_n|^2``, reading ``rows`` once."""
    products = []
    for part in blocks(rows, dim=1):
        u = weights @ part.to(weights.dtype)
        products.append(torch.dot(u, u))
    return sum(products[1:], products[0])


def _inverse_norm(squares: Tensor) -> Tensor:
    """``1 / sqrt(squares)``; something finite for 0, whose products are 0 anyway."""
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).rsqrt()


def blocks(rows: Tensor, dim: int) -> Sequence[Tensor]:
    """2D ``rows`` in parts along ``dim``, so that what follows a read finds a cache.

    On CPU alone: fresh memory and second reads cost more there than a loop does.
    """
    if (
        rows.device.type != 'cpu'
        or torch.compiler.is_compiling()
        or rows.numel() <= BLOCK
    ):
        return [rows]
    return rows.split(max(BLOCK // rows.shape[1 - dim], 1), dim)


def flat_condensation(cosines: Tensor, pairs: int | Tensor) -> Tensor:
    """The mean cosine over the pairs of a :func:`flat_summary`; 1 without a pair."""
    return _mean_or_one(cosines.squeeze(0), pairs)


def pooled_summary(
    x: Tensor, mean: Tensor, var: Tensor, gram: Tensor | None = None
) -> tuple[Tensor, int]:
    """``sum_n K_n / |K_n|`` over the first 16 samples, how many are not zero; and all.

    ``(C + 1,)``, and a number; ``gram`` is of no use. Not differentiated.
    """
    n = _samples(x)
    with torch.no_grad():
        mean = mean[:n]
        norms = torch.linalg.vector_norm(mean, dim=1)
        direction = norms.clamp(min=torch.finfo(norms.dtype).tiny).reciprocal() @ mean
        return torch.cat([direction, norms.count_nonzero().view(1)]), n


def pooled_condensation(summary: Tensor, n: int | Tensor) -> Tensor:
    """The mean cosine between the vectors ``K_n`` of a :func:`pooled_summary`."""
    direction, nonzero = summary[:-1], summary[-1]
    return _mean_or_one(torch.dot(direction, direction) - nonzero, n * (n - 1))


def _mean_or_one(total: Tensor, count: int | Tensor) -> Tensor:
    if isinstance(count, Tensor):
        return torch.where(count > 0, total / count, 1)
    return total / count if count > 0 else torch.ones_like(total)


def _samples(x: Tensor) -> int:
    """How many samples are compared: the first 16; none if they are empty."""
    return 0 if is_empty(x) else min(len(x), CONDENSATION_SAMPLES)


def is_empty(x: Tensor) -> bool:
    """Whether ``x`` has no elements. A traced size is a tensor: a trace has elements."""
    return not torch.jit.is_tracing() and x.numel() == 0


SUMMARIES = {'flat': flat_summary, 'pooled': pooled_summary}
CONDENSATIONS = {'flat': flat_condensation, 'pooled': pooled_condensation}


# --- statistics and coefficients: (N, C) tensors, cheap -----------------------------


def center(mean: Tensor, weight: Tensor | None) -> Tensor:
    """``K + w_m * K``: the means of ``x + w_m * GAP(x)``; ``K`` without a weight."""
    return mean if weight is None else torch.addcmul(mean, weight, mean)


def batch_statistics(
    mean: Tensor, var: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H, W, ``(C,)`` each, from those of each map.

    ``mean`` is that of the centred input, ``var`` is the same with centering and without.
    The variance is that within samples plus that between them: never negative, and free
    of the cancellation of ``E[x^2] - E[x]^2``. Both are zero where there are no samples.

    ``weights``, ``(N, 1)``, are the samples' shares of the elements; None for equal ones.
    """
    if weights is not None:
        batch_mean = (weights * mean).sum(dim=0)
        var = var + (mean - batch_mean).square()
        return batch_mean, (weights * var).sum(dim=0)
    if len(mean) == 0:
        nothing = mean.sum(dim=0)
        return nothing, nothing
    batch_mean = mean.mean(dim=0)  # var_mean takes three times as long on a CPU
    deviation = mean - batch_mean
    return batch_mean, torch.addcmul(var, deviation, deviation).mean(dim=0)


def scaling_gate(
    pooled: Tensor, weight: Tensor, bias: Tensor, initial_bias: float
) -> Tensor:
    """``s = sigmoid(w_v * pooled + w_b) / sigmoid(b0)``, ``(N, C)``.

    ``b0`` is the initial value of ``w_b``: a fresh gate is exactly one.
    """
    return torch.sigmoid(weight * pooled + bias) * (1 + math.exp(-initial_bias))


def spatial_kernel(weight: Tensor, spatial_weight: Tensor, size: int) -> Tensor:
    """The depthwise kernel ``weight * delta + spatial_weight``, ``(C, size, size)``."""
    if (
        torch.jit.is_tracing()
    ):  # ONNX wants to know the shape, and loses it at a padding
        before, centre, after = spatial_weight.flatten(1).split(
            [size * size // 2, 1, size * size // 2], dim=1
        )
        taps = torch.cat([before, centre + weight.unsqueeze(1), after], dim=1)
        return taps.view(-1, size, size)
    return F.pad(weight.unsqueeze(1).unsqueeze(2), (size // 2,) * 4) + spatial_weight


def over_positions(coefficient: Tensor) -> Tensor:
    """``(..., C)`` to ``(..., C, 1, 1)``."""
    return coefficient.unsqueeze(-1).unsqueeze(-1)
