"""Statistics by the quadratic mean, with a gradient that is an average over batches."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...ops.tensors import refuse_forward_mode
from .stage import Layer
from .statistics import Batch, BatchStatistics, State, all_finite, count_batch, move


class QuadraticStatistics(BatchStatistics):
    """``xhat = (x - p) / sqrt(E[(x - p)^2] + eps)``: nothing is centred.

    ``p`` is ``running_mean``, which never moves: 0 in a fresh layer, as the definitions
    have it, or what a BatchNorm checkpoint brings. ``running_var`` is the average of the
    quadratic means; with ``p`` it makes evaluation BatchNorm's.
    """

    compiles = False

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """``p``, and what makes a scale of the batch's quadratic mean.

        That is :meth:`scale` where the averages move, else the batch's own.
        """
        square = self.square(layer, batch)
        if state is None:
            inv_std = torch.rsqrt(square + layer.eps)
        else:
            inv_std = self.scale(layer, batch, square, state)
        return self.pivot(layer, batch), inv_std

    def scale(self, layer: Layer, batch: Batch, square: Tensor, state: State) -> Tensor:
        """The scale of a batch of this quadratic mean, ``(C,)`` each."""
        raise NotImplementedError

    def pivot(self, layer: Layer, batch: Batch) -> Tensor:
        """``p``, ``(C,)``."""
        if layer.running_mean is None:
            return torch.zeros_like(batch.mean)
        return layer.running_mean.to(batch.mean.dtype)

    def square(self, layer: Layer, batch: Batch) -> Tensor:
        """The batch's ``E[(x - p)^2]``, ``(C,)``: no difference of large numbers."""
        return batch.var + (batch.mean - self.pivot(layer, batch)).square()

    def is_valid(self, layer: Layer, square: Tensor, batch: Batch) -> Tensor:
        """``()`` bool: there are elements, all finite, as they will be stored, too."""
        valid = all_finite(square.to(layer.running_var.dtype))
        return valid if batch.counts is None else valid & batch.counts

    def move_square(self, layer: Layer, square: Tensor, is_valid: Tensor) -> None:
        """Move ``running_var`` towards a batch's quadratic mean, if that ``is_valid``."""
        step = count_batch(layer, is_valid)
        move([layer.running_var], [square], step, is_valid)


def scale_with_gradient(
    square: Tensor,
    scale: Tensor,
    curvature: Tensor,
    batch: Batch,
    respond: Callable[[Tensor], Tensor],
) -> Tensor:
    """``scale``, whose gradient goes to ``square`` in the place of its own.

    With ``xhat = scale * (x - p)``, the exact gradient of a normalisation by the batch's
    quadratic mean is ``dx = scale * dxhat - curvature * (x - p) * mean(dxhat * xhat)``.
    The last factor is replaced by what ``respond`` makes of it.

    Args:
        square: ``E[(x - p)^2]`` of the batch, ``(C,)``.
        scale: What ``x - p`` is multiplied by, ``(C,)``. Not differentiated.
        curvature: ``1 / (E + eps)``, ``(C,)``, of the ``E`` that ``scale`` is from.
        batch: The batch; the mean is over all its elements, on all its ranks.
        respond: From ``mean(dxhat * xhat)``, ``(C,)``, to what stands in for it.
    """
    refuse_forward_mode(square, 'whose gradient is an average over batches')
    return _ScaleWithGradient.apply(
        square, scale, curvature, batch.count, batch.group, respond
    )


class _ScaleWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, square, scale, curvature, count, group, respond):
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
