"""A whole layer as one differentiable function: passes and algebra, backward by hand.

Forward: moments of the maps -> statistics, merged if there are ranks -> coefficients ->
apply. Backward: sums over the maps -> gradients of the statistics, merged again ->
those of the maps. What is in between is in ``coefficients.py``, what is done with ``x`` in
``eager_steps.py`` and ``triton_steps.py``. Saved are ``x`` and tensors of maps.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import algebra, eager_steps
from .coefficients import (
    Form,
    Learnt,
    backward_to_maps,
    backward_to_statistics,
    coefficients,
)
from .first_order import first_order


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


# From ``K``, ``V`` and the means of the centred maps, ``(N, C)`` each, and the products of
# all pairs of samples, ``(N, N)``, or None.
OfBatch = Callable[[Tensor, Tensor, Tensor, Tensor | None], Normalizer]


def closed_form(
    x: Tensor,
    normalizer: Normalizer | OfBatch,
    learnt: Learnt,
    form: Form,
    steps: ModuleType = eager_steps,
) -> Tensor:
    """The layer's output.

    Args:
        x: ``(N, C, H, W)``, with elements.
        normalizer: Constants; or a function of the batch, called once in forward, where
            nothing is recorded for autograd.
        learnt: Parameters.
        form: Settings.
        steps: What to do with ``x``: ``eager_steps`` or ``triton_steps``.
    """
    return _ClosedForm.apply(x, normalizer, form, steps, *learnt)


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, normalizer, form, steps, *learnt):
        dtype = algebra.compute_dtype(x)
        learnt = Learnt(*(t if t is None else t.to(dtype) for t in learnt))
        mean = centred = None
        if callable(normalizer):
            mean, var, gram = steps.moments(x, form.needs_gram)
            centred = algebra.center(mean, learnt.centering_weight)
            normalizer = normalizer(mean, var, centred, gram)
        elif learnt.differs_by_sample:
            mean = steps.mean(x)
            centred = algebra.center(mean, learnt.centering_weight)
        if not learnt.differs_by_sample:
            mean = centred = None
        mu, var = normalizer.mean, normalizer.var
        c = coefficients(mean, centred, mu, var, learnt, form)

        # What the apply takes, for each map or, where samples share it, each channel.
        pivot, weight, bias, apply_var = steps.per_map(
            x, c.pivot, c.weight, c.bias, var
        )
        y = steps.apply(x, pivot, weight, bias, apply_var, form.eps, c.kernel, c.behind)

        ctx.form, ctx.count, ctx.group = form, normalizer.count, normalizer.group
        ctx.steps = steps
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
        sums = ctx.steps.reduce(grad, x, pivot, weight, apply_var, form.eps, kernel)
        needs_x, needs_centering = ctx.needs_input_grad[0], ctx.needs_input_grad[7]
        to_x = needs_x or needs_centering
        back = backward_to_statistics(
            *sums[1:3], sums.behind, mean, var, pivot, sigmoid, is_open, learnt,
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
            of_x = ctx.steps.gradient(sums.handed, kernel, scale, x, *to_maps[:3])
        gradients = back.learnt._replace(centering_weight=of_centering)
        if kernel is not None:
            centre = kernel.shape[-1] // 2
            gradients = gradients._replace(
                spatial_weight=sums.kernel,
                weight=sums.kernel[:, centre, centre].contiguous(),
            )
        return of_x, None, None, None, *gradients
