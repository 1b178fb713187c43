"""A whole layer as one differentiable function: passes and algebra, backward by hand.

Forward: moments of the maps -> statistics, merged if there are ranks -> coefficients ->
apply. Backward: sums over the maps -> gradients of the statistics, merged again ->
those of the maps. What is in between is in ``coefficients.py``, the passes over ``x`` in
``passes.py``. Saved are ``x`` and tensors of maps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import algebra, passes
from .coefficients import (
    Form,
    Learnt,
    backward_to_maps,
    backward_to_statistics,
    coefficients,
)
from .fused import first_order


class Normalizer(NamedTuple):
    """What to normalise with.

    Attributes:
        mean: ``mu``, ``(C,)``.
        var: Biased, ``(C,)``.
        is_open: ``()`` bool, whether both are the batch's; None for certain.
        count: Elements of a channel that they are of, on all ranks: a number or ``()``;
            None where they are constants.
        group: The ranks that were merged; None for this one alone.
    """

    mean: Tensor
    var: Tensor
    is_open: Tensor | None = None
    count: int | Tensor | None = None
    group: dist.ProcessGroup | None = None


# From ``K``, ``V`` and the means of the centred maps, ``(N, C)`` each.
OfBatch = Callable[[Tensor, Tensor, Tensor], Normalizer]


def closed_form(
    x: Tensor, normalizer: Normalizer | OfBatch, learnt: Learnt, form: Form
) -> Tensor:
    """The layer's output.

    Args:
        x: ``(N, C, H, W)``, with elements.
        normalizer: Constants; or a function of the batch, called once in forward, where
            nothing is recorded for autograd.
        learnt: Parameters.
        form: Settings.
    """
    return _ClosedForm.apply(x, normalizer, form, *learnt)


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, normalizer, form, *learnt):
        dtype = algebra.compute_dtype(x)
        learnt = Learnt(*(t if t is None else t.to(dtype) for t in learnt))
        mean = centred = None
        if callable(normalizer):
            mean, var = passes.moments(x)
            centred = algebra.center(mean, learnt.centering_weight)
            normalizer = normalizer(mean, var, centred)
        elif learnt.differs_by_sample:
            mean = passes.mean(x)
            centred = algebra.center(mean, learnt.centering_weight)
        if not learnt.differs_by_sample:
            mean = centred = None
        mu, var = normalizer.mean, normalizer.var
        c = coefficients(mean, centred, mu, var, learnt, form)

        apply = c.pivot, c.weight, c.bias, var
        if mean is not None:  # each map has its own; else each channel, for all samples
            apply = tuple(passes.over_maps(t, x) for t in apply)
        pivot, weight, bias, apply_var = apply
        y = passes.normalize(x, *apply, form.eps).to(x.dtype)
        if c.kernel is not None:
            y = passes.depthwise(y, c.kernel)
            if c.behind is not None:
                # Not in place: checkpointing may keep what the convolution gave.
                y = (y + algebra.over_positions(c.behind)).to(x.dtype)

        ctx.form, ctx.count, ctx.group = form, normalizer.count, normalizer.group
        ctx.save_for_backward(
            x, mean, var, normalizer.is_open, pivot, weight, apply_var, c.sigmoid,
            c.kernel, *learnt,
        )  # fmt: skip
        return y

    @staticmethod
    @first_order
    def backward(ctx, grad):
        (x, mean, var, is_open, pivot, weight, apply_var, sigmoid, kernel,
         *learnt) = ctx.saved_tensors  # fmt: skip
        learnt, form = Learnt(*learnt), ctx.form
        u, of_kernel, of_behind = grad, None, None
        if kernel is not None:
            y = passes.normalize(x, pivot, weight, None, apply_var, form.eps)
            y = y.to(x.dtype)
            u, of_kernel = passes.depthwise_backward(grad, y, kernel)
            of_behind = grad.sum(dim=(2, 3), dtype=pivot.dtype)
        of_weight, of_bias = passes.sums(u, x, pivot, apply_var, form.eps)
        needs_x, needs_centering = ctx.needs_input_grad[0], ctx.needs_input_grad[6]
        to_x = needs_x or needs_centering
        back = backward_to_statistics(
            of_weight, of_bias, of_behind, mean, var, pivot, sigmoid, is_open, learnt,
            form, of_batch=ctx.count is not None and to_x,
        )  # fmt: skip
        of_x = of_centering = None
        if to_x:
            positions, total = x.shape[2] * x.shape[3], ctx.count
            if ctx.group is not None:
                dist.all_reduce(back.statistics, group=ctx.group)
                total = total.clamp(min=1)
            to_maps = backward_to_maps(
                back, back.statistics, mean, pivot, learnt, positions, total
            )
            of_centering = to_maps.centering_weight
        if needs_x:
            scale = back.inv_std if weight is None else weight * back.inv_std
            of_x = passes.combine(u, scale, x, *to_maps[:3]).to(x.dtype)
        gradients = back.learnt._replace(centering_weight=of_centering)
        if kernel is not None:
            centre = kernel.shape[-1] // 2
            gradients = gradients._replace(
                spatial_weight=of_kernel,
                weight=of_kernel[:, centre, centre].contiguous(),
            )
        return of_x, None, None, *gradients
