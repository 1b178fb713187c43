"""The statistics of a batch: from those of its maps, and over all ranks.

Source: "Unified Batch Normalization", arXiv 2311.15993. Everything here follows from the
mean ``K`` and the biased variance ``V`` of each map, one channel of one sample, ``(N, C)``
each; only the condensation of whole maps takes one more read of ``x``.
docs/how-it-works.md derives the formulas.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tensors import CACHED, is_empty

CONDENSATION_SAMPLES = 16
COPIED = 2**24  # elements of a wider copy on a GPU


def batch_statistics(
    mean: Tensor, var: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H, W, ``(C,)`` each, from those of each map.

    The variance is that within samples plus that between them: never negative, and free
    of the cancellation of ``E[x^2] - E[x]^2``. Both are zero where there are no samples.

    Args:
        mean: Of each map of the centred input, ``(N, C)``.
        var: Of each map, biased, ``(N, C)``; the same with centering and without.
        weights: The samples' shares of the elements, ``(N, 1)``; None for equal ones.
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


# --- condensation: how alike the samples of a batch are -----------------------------
#
# In two steps, because summaries of disjoint sets of samples add up, condensations do not.


def flat_summary(
    x: Tensor, mean: Tensor, var: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, int]:
    """Sum of the cosines between samples flattened over C, H, W, and pairs' number.

    ``(1,)``, over all ordered pairs of different samples among the first 16. A sample of
    zeros has cosine 0 with every other. Not differentiated.

    One read of ``x``: with ``u = sum_n x_n / |x_n|`` the sum is ``|u|^2 - n``, and
    ``|x_n|^2`` is ``H*W * sum_c (V + K^2)``. Two samples, a GPU's usual share of a
    detector's batch, have one product, which a CPU computes in a third of the time.

    Args:
        x: ``(N, C, H, W)``.
        mean: Of each map, ``(N, C)``.
        var: Biased, of each map, ``(N, C)``.
        positions: Of each sample's maps, ``(N, 1)``, where ``x`` is zero in the others;
            None for ``H*W``.
    """
    n = _samples(x)
    x, mean, var = (tensor[:n].detach() for tensor in (x, mean, var))
    with torch.no_grad():
        squares = torch.addcmul(var, mean, mean).sum(dim=1)
        if positions is None:
            squares = squares * (x.shape[2] * x.shape[3])
        else:
            squares = squares * positions[:n, 0]
        weights = _inverse_norm(squares)
        total = squares.new_zeros(())
        for part in _parts(_rows(x), weights.dtype):
            part = part.to(weights.dtype)
            if n == 2:
                total = total + torch.dot(*part)
            else:
                u = weights @ part
                total = total + torch.dot(u, u)
        if n == 2:
            cosines = 2 * total * weights.prod()
        else:
            cosines = total - squares.count_nonzero()
        return cosines.view(1), n * (n - 1)


def flat_condensation(cosines: Tensor, pairs: int | Tensor) -> Tensor:
    """The mean cosine over the pairs of a :func:`flat_summary`; 1 without a pair."""
    return _mean_or_one(cosines.squeeze(0), pairs)


def pooled_summary(
    x: Tensor, mean: Tensor, var: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, int]:
    """``sum_n K_n / |K_n|`` over the first 16 samples, how many are not zero; and all.

    ``(C + 1,)``, and a number. Not differentiated. Arguments as for :func:`flat_summary`.
    """
    n = _samples(x)
    mean = mean[:n].detach()
    with torch.no_grad():
        squares = mean.square().sum(dim=1)
        direction = _inverse_norm(squares) @ mean
        return torch.cat([direction, squares.count_nonzero().view(1)]), n


def pooled_condensation(summary: Tensor, n: int | Tensor) -> Tensor:
    """The mean cosine between the vectors ``K_n`` of a :func:`pooled_summary`."""
    direction, nonzero = summary[:-1], summary[-1]
    return _mean_or_one(torch.dot(direction, direction) - nonzero, n * (n - 1))


SUMMARIES = {'flat': flat_summary, 'pooled': pooled_summary}
CONDENSATIONS = {'flat': flat_condensation, 'pooled': pooled_condensation}


def _samples(x: Tensor) -> int:
    """How many samples are compared: the first 16; none if they are empty."""
    return 0 if is_empty(x) else min(len(x), CONDENSATION_SAMPLES)


def _rows(x: Tensor) -> Tensor:
    """``(N, C*H*W)``, the elements in the order of memory: any serves."""
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1)


def _parts(rows: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """Parts of all rows, so that what is made of one fits a cache, or little memory."""
    if torch.compiler.is_compiling():
        return [rows]
    on_cpu = rows.device.type == 'cpu'
    if not on_cpu and rows.dtype == dtype:  # read where it is
        return [rows]
    return rows.split(
        max((CACHED if on_cpu else COPIED) // max(len(rows), 1), 1), dim=1
    )


def _inverse_norm(squares: Tensor) -> Tensor:
    """``1 / sqrt(squares)``; something finite for 0, whose products are 0 anyway."""
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).rsqrt()


def _mean_or_one(total: Tensor, count: int | Tensor) -> Tensor:
    if isinstance(count, Tensor):
        return torch.where(count > 0, total / count, 1)
    return total / count if count > 0 else torch.ones_like(total)


# --- over ranks: one all-reduce forward, one backward -------------------------------
#
# Each rank contributes the mean and biased variance of its own elements and their number;
# ranks may differ in batch and image size, and may have no elements at all. The result is
# what one process would have got from all elements (docs/distributed.md). Works on any
# backend that has all_reduce in float64, on any device that has float64.


def sync_group(size: int | None = None) -> dist.ProcessGroup | None:
    """The ranks to merge statistics with; None on one's own.

    Args:
        size: Ranks in a group, consecutive ones; None for all. The first call with a size
            makes this rank's group, and waits for the other ranks of the group alone.

    Raises:
        ValueError: If there are several ranks, and their number is not a multiple of
            ``size``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    world_size = dist.get_world_size()
    if world_size == 1:
        return None
    if size is not None and world_size % size:
        raise ValueError(
            f'sync_group_size must divide the number of ranks, {world_size}, got {size}'
        )
    if size == 1:
        return None
    world = dist.group.WORLD
    if world is None or size is None or size == world_size:
        return world
    return _subgroup(world, size)


# Kept here, never on a module: a process group can be neither copied nor pickled. By the
# world as well, because a process can leave one and join another.
_subgroups: dict[tuple[dist.ProcessGroup, int], dist.ProcessGroup] = {}


def _subgroup(world: dist.ProcessGroup, size: int) -> dist.ProcessGroup:
    if (world, size) not in _subgroups:
        for stale in [key for key in _subgroups if key[0] is not world]:
            del _subgroups[stale]
        first = dist.get_rank() // size * size
        ranks = list(range(first, first + size))
        # Without "local", ranks that never call the layer would keep all others waiting.
        group = dist.new_group(ranks, use_local_synchronization=True)
        _subgroups[world, size] = group
    return _subgroups[world, size]


def merge_statistics(
    mean: Tensor, var: Tensor, count: int, summary: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, biased variance, element count and summary over all ranks of ``group``.

    Args:
        mean: ``(C,)``, this rank's mean; zero where it has no elements.
        var: ``(C,)``, this rank's biased variance; zero likewise.
        count: Elements a channel on this rank.
        summary: ``(S,)``, anything that adds up over ranks; not differentiated.
        group: Every rank of it must call this, and, if any of ``mean`` and ``var``
            requires a gradient, go through its backward.

    Returns:
        Merged ``mean`` and ``var``, ``(C,)``; ``count``, ``()`` float64; ``summary``,
        ``(S,)``. Both statistics are zero where no rank has elements.

    What is reduced are the sums of the elements and of their squares, in float64 and
    about zero, so that nothing depends on what the ranks hold otherwise. The variance
    then has a relative error of some ``2e-16 * (mean / deviation)^2``: 1e-9 at a mean of
    2,000 deviations. At a million of them it is 2e-4, and float32 itself, which the
    elements are in, has resolved the deviations no better.
    """
    return _MergeStatistics.apply(mean, var, count, summary, group)


class _MergeStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, var, count, summary, group):
        channels = len(mean)
        wide = mean.double()
        squares = var.double() + wide.square()
        sums = torch.cat([wide, squares, summary.double(), wide.new_ones(1)])
        # The summary adds up as it is; all else weighs by the elements.
        sums[: 2 * channels] *= count
        sums[-1] = count
        dist.all_reduce(sums, group=group)
        total = sums[-1]
        merged_mean, squares = (sums[: 2 * channels] / total.clamp(min=1)).chunk(2)
        merged_var = (squares - merged_mean.square()).clamp(min=0).to(var.dtype)
        merged_mean = merged_mean.to(mean.dtype)
        merged_summary = sums[2 * channels : -1].to(summary.dtype)
        ctx.group = group
        share = (count / total.clamp(min=1)).to(mean.dtype)
        ctx.save_for_backward(share, mean - merged_mean)
        ctx.mark_non_differentiable(total, merged_summary)
        return merged_mean, merged_var, total, merged_summary

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_var, *_):
        share, deviation = ctx.saved_tensors
        grad = torch.cat([grad_mean, grad_var])
        dist.all_reduce(grad, group=ctx.group)
        grad_mean, grad_var = (share * grad).chunk(2)
        return grad_mean + 2 * deviation * grad_var, grad_var, None, None, None
