"""Statistics by the quadratic mean, with a gradient that is an average over batches."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .stage import Layer
from .statistics import Batch, BatchStatistics, State, count_batch, move


class QuadraticStatistics(BatchStatistics):
    """``xhat = (x - p) / sqrt(E[(x - p)^2] + eps)``: nothing is centred.

    ``p`` is ``running_mean``, which never moves: 0 in a fresh layer, as the definitions
    have it, or what a BatchNorm checkpoint brings. ``running_var`` is the average of the
    quadratic means; with ``p`` it makes evaluation BatchNorm's.
    """

    needs_tracking = True

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """``p``, and a scale whose gradient is of its :meth:`averages`.

        With ``xhat = scale * (x - p)``, the exact gradient of a normalisation by the
        batch's quadratic mean is
        ``dx = scale * dxhat - curvature * (x - p) * mean(dxhat * xhat)``, the mean over
        all elements, on all ranks. ``respond`` puts something else in the place of that
        mean.
        """
        square, pivot = self.square(layer, batch), self.pivot(layer, batch)
        if state is None:
            return pivot, torch.rsqrt(square + layer.eps)
        averages = self.averages(layer, square.detach(), state)
        of_batch = batch.count, batch.group
        return pivot, _ScaleWithGradient.apply(square, *averages, *of_batch)

    def averages(
        self, layer: Layer, square: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """``scale, curvature, respond`` of a batch of this quadratic mean, ``(C,)`` each.

        ``curvature`` is ``1 / (E + eps)``, of the ``E`` that ``scale`` is from;
        ``respond`` makes of ``mean(dxhat * xhat)`` what stands in for it.
        """
        raise NotImplementedError

    def pivot(self, layer: Layer, batch: Batch) -> Tensor:
        """``p``, ``(C,)``."""
        return layer.running_mean.to(batch.mean.dtype)

    def square(self, layer: Layer, batch: Batch) -> Tensor:
        """The batch's ``E[(x - p)^2]``, ``(C,)``: no difference of large numbers."""
        return batch.var + (batch.mean - self.pivot(layer, batch)).square()

    def move_square(self, layer: Layer, square: Tensor, is_valid: Tensor) -> None:
        """Move ``running_var`` towards a batch's quadratic mean, if that ``is_valid``."""
        move(layer.running_var, square, count_batch(layer, is_valid), is_valid)


class _ScaleWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, square, scale, curvature, respond, count, group):
        ctx.count, ctx.group, ctx.respond = count, group, respond
        ctx.save_for_backward(scale, curvature)
        return scale.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        scale, curvature = ctx.saved_tensors
        count, ranks = ctx.count, 1
        if ctx.group is not None:  # what is averaged is that of all ranks
            grad = grad.clone()
            dist.all_reduce(grad, group=ctx.group)
            ranks = dist.get_world_size(ctx.group)
            count = count.clamp(min=1)
        correlation = ctx.respond(grad * scale / count)
        # d square / dx = 2 * (x - p) / count. The ranks' shares are added up in the
        # backward of the merge.
        back = correlation * curvature * (-0.5 * count / ranks)
        return back, None, None, None, None, None
