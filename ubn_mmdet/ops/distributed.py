"""Merging the statistics of all ranks: one collective forward, one backward.

Each rank contributes the mean and biased variance of its own elements and their number;
ranks may differ in batch and image size, and may have no elements at all. The result is
what one process would have got from all elements (docs/distributed.md). Works on any
backend that has ``all_gather`` and ``all_reduce``, on any device.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def sync_group(size: int | None = None) -> dist.ProcessGroup | None:
    """The ranks to merge statistics with; None on one's own.

    Args:
        size: Ranks in a group, consecutive ones; None for all. The first call with a size
            makes the groups and must be reached by all ranks, as every collective.

    Raises:
        ValueError: If the number of ranks is not a multiple of ``size``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    world_size = dist.get_world_size()
    if size is not None and world_size % size:
        raise ValueError(
            f'sync_group_size must divide the number of ranks, {world_size}, got {size}'
        )
    if (size or world_size) == 1:
        return None
    if size is None or size == world_size:
        return dist.group.WORLD
    return _subgroup(dist.group.WORLD, size)


# Kept here, never on a module: a process group can be neither copied nor pickled. By the
# world as well, because a process can leave one and join another.
_subgroups: dict[tuple[dist.ProcessGroup, int], dist.ProcessGroup] = {}


def _subgroup(world: dist.ProcessGroup, size: int) -> dist.ProcessGroup:
    if (world, size) not in _subgroups:
        for stale in [key for key in _subgroups if key[0] is not world]:
            del _subgroups[stale]
        _subgroups[world, size], _ = dist.new_subgroups(size)
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
        Merged ``mean`` and ``var``, ``(C,)``; ``count``, ``()``; ``summary``, ``(S,)``.
        Both statistics are zero where no rank has elements.
    """
    return _MergeStatistics.apply(mean, var, count, summary, group)


class _MergeStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, var, count, summary, group):
        channels, extra = len(mean), len(summary)
        own = torch.cat([mean, var, summary, mean.new_full((1,), count)])
        gathered = own.new_empty(dist.get_world_size(group), len(own))
        dist.all_gather(list(gathered.unbind()), own, group=group)
        means, variances, summaries, counts = gathered.split(
            [channels, channels, extra, 1], dim=1
        )
        total = counts.sum()
        shares = counts / total.clamp(min=1)
        merged_mean = (shares * means).sum(0)
        merged_var = (shares * (variances + (means - merged_mean).square())).sum(0)
        merged_summary = summaries.sum(0)
        ctx.group = group
        ctx.save_for_backward(shares[dist.get_rank(group)], mean - merged_mean)
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
