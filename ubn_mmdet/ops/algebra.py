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

import torch
import torch.nn.functional as F
from torch import Tensor

CONDENSATION_SAMPLES = 16
BLOCK = 2**20  # elements that fit a processor's cache


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of statistics and coefficients for input ``x``: float32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)


# --- condensation: how alike the samples of a batch are -----------------------------
#
# In two steps, because summaries of disjoint sets of samples add up, condensations do not.


def flat_summary(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Sum of the cosines between samples flattened over C, H, W, and pairs' number.

    ``(2,)``, over all ordered pairs of different samples among the first 16. With
    ``u = sum_n x_n / |x_n|`` the sum is ``|u|^2 - n``, and ``|x_n|^2`` is
    ``H*W * sum_c (V + K^2)``: one read of ``x``, no tensor of pairs. A sample of zeros
    has cosine 0 with every other. Not differentiated.
    """
    n = _samples(x)
    with torch.no_grad():
        x, mean, var = x[:n], mean[:n], var[:n]
        norm = (x.shape[2] * x.shape[3] * (var + mean.square()).sum(dim=1)).sqrt()
        inverse = _inverse_or_zero(norm)
        cosines = _squared_norm_of_sum(x, inverse) - (inverse > 0).sum()
        return torch.stack([cosines, cosines.new_full((), n * (n - 1))])


def _squared_norm_of_sum(x: Tensor, weights: Tensor) -> Tensor:
    """``|sum_n weights_n x_n|^2``, reading ``x`` once."""
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)  # any order of the elements serves
    flat = x.flatten(1)
    total = weights.new_zeros(())
    for part in flat.split(block_length(flat), dim=1):
        u = weights @ part.to(weights.dtype)
        total = total + torch.dot(u, u)
    return total


def block_length(rows: Tensor) -> int:
    """Columns of ``rows`` to take at a time, so that what follows a read finds a cache.

    On CPU alone: fresh memory and second reads cost more there than a loop does.
    """
    if rows.device.type != 'cpu' or torch.compiler.is_compiling():
        return max(rows.shape[1], 1)
    return max(BLOCK // max(len(rows), 1), 1)


def flat_condensation(summary: Tensor) -> Tensor:
    """The mean cosine over the pairs of a :func:`flat_summary`; 1 without a pair."""
    cosines, pairs = summary
    return torch.where(pairs > 0, cosines / pairs, 1)


def pooled_summary(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """``sum_n K_n / |K_n|`` over the first 16 samples, how many are not zero, and all.

    ``(C + 2,)``. Not differentiated.
    """
    n = _samples(x)
    with torch.no_grad():
        mean = mean[:n]
        inverse = _inverse_or_zero(mean.norm(dim=1))
        direction = (inverse[:, None] * mean).sum(dim=0)
        counts = torch.stack([(inverse > 0).sum(), inverse.new_full((), n)])
        return torch.cat([direction, counts])


def pooled_condensation(summary: Tensor) -> Tensor:
    """The mean cosine between the vectors ``K_n`` of a :func:`pooled_summary`."""
    direction, (nonzero, n) = summary[:-2], summary[-2:]
    pairs = n * (n - 1)
    return torch.where(pairs > 0, (direction.square().sum() - nonzero) / pairs, 1)


def _samples(x: Tensor) -> int:
    """How many samples are compared: the first 16; none if they are empty."""
    return 0 if is_empty(x) else min(len(x), CONDENSATION_SAMPLES)


def is_empty(x: Tensor) -> bool:
    """Whether ``x`` has no elements. A traced size is a tensor: a trace has elements."""
    return not torch.jit.is_tracing() and x.numel() == 0


def _inverse_or_zero(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, norm.reciprocal(), 0)


SUMMARIES = {'flat': flat_summary, 'pooled': pooled_summary}
CONDENSATIONS = {'flat': flat_condensation, 'pooled': pooled_condensation}


# --- statistics and coefficients: (N, C) tensors, cheap -----------------------------


def batch_statistics(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H, W, ``(C,)`` each, from those of each map.

    ``mean`` is that of the centred input, ``var`` is the same with centering and without.
    The variance is that within samples plus that between them: never negative, and free
    of the cancellation of ``E[x^2] - E[x]^2``. Both are zero where there are no samples.
    """
    if len(mean) == 0:
        nothing = mean.sum(dim=0)
        return nothing, nothing
    between, batch_mean = torch.var_mean(mean, dim=0, correction=0)
    return batch_mean, var.mean(dim=0) + between


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
