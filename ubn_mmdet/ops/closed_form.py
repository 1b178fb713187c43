"""A whole layer as one differentiable function: passes and algebra, backward by hand.

Forward: moments of the maps -> statistics, merged if there are ranks -> coefficients ->
apply. Backward: sums over the maps -> gradients of the statistics, merged again ->
those of the maps. What is done with ``x`` is in ``eager_steps.py`` and
``triton_steps.py``, what is in between in the ``algebra`` that each of them has. Saved are
``x`` and tensors of maps.
"""

from types import ModuleType

import torch
from torch import Tensor

from . import algebra, eager_steps
from .coefficients import Form, Learnt
from .eager_algebra import Saved
from .first_order import first_order
from .normalizer import Normalizer, OfBatch


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
        normalizer: What to normalise with.
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
        mean = var = gram = None
        if isinstance(normalizer, OfBatch):
            mean, var, gram = steps.moments(x, form.needs_gram)
        elif learnt.differs_by_sample:
            mean = steps.mean(x)
        mean, normalizer, c = steps.algebra.forward(
            mean, var, gram, normalizer, learnt, form
        )

        # What the apply takes, for each map or, where samples share it, each channel.
        pivot, weight, bias, var = steps.per_map(
            x, c.pivot, c.weight, c.bias, normalizer.var
        )
        y = steps.apply(x, pivot, weight, bias, var, form.eps, c.kernel, c.behind)

        ctx.form, ctx.steps = form, steps
        ctx.count, ctx.group = normalizer.count, normalizer.group
        ctx.save_for_backward(
            x, var, c.kernel, mean, normalizer.var, normalizer.is_open, pivot, weight,
            c.sigmoid, *learnt,
        )  # fmt: skip
        return y

    @staticmethod
    @first_order
    def backward(ctx, grad):
        (
            x, apply_var, kernel, mean, var, is_open, pivot, weight, sigmoid, *learnt
        ) = ctx.saved_tensors  # fmt: skip
        positions = x.shape[2] * x.shape[3]
        saved = Saved(
            mean, var, is_open, pivot, weight, sigmoid, ctx.count, ctx.group, positions
        )
        learnt = Learnt(*learnt)
        needs_x, needs_centering = ctx.needs_input_grad[0], ctx.needs_input_grad[7]
        steps, form = ctx.steps, ctx.form
        sums = steps.reduce(
            grad, x, saved.pivot, saved.weight, apply_var, form.eps, kernel
        )
        back = steps.algebra.backward(
            sums, saved, learnt, form, to_maps=needs_x or needs_centering
        )
        of_x = None
        if needs_x:
            of_x = steps.gradient(sums, kernel, back.scale, x, *back[2:])
        return of_x, None, None, None, *back.learnt
