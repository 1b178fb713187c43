"""The passes over ``x`` with hand-written backward: nothing is saved but ``x``.

The same functions as in ``reference.py``, which is the reference. Per map (sample and
channel) of ``M`` positions, with ``u`` the gradient of ``scale * (x - pivot) + shift``:

- backward of apply: one reduction, ``sum u`` and ``sum u*(x - pivot)``, gives the
  gradients of the coefficients; ``u`` is the gradient of the result, for a depthwise
  stage passed back through the convolution;
- in between, autograd goes through the ``(N, C)`` coefficients and ends at ``dK, dV``;
- backward of moments: one apply, ``dx = scale*u + dK/M + 2*dV/M * (x - K)``.

So the backward of apply must not write ``scale*u`` for that of moments to read again: it
hands over ``u`` itself, as the gradient of the ``x`` that came out of moments, and leaves
``scale`` in the :class:`_HandOver` of the call.
"""

from typing import Any

import torch
from torch import Tensor

from . import passes
from .algebra import compute_dtype
from .first_order import first_order


class FusedPasses:
    """The passes of one call, as in :class:`~ubn_mmdet.ops.reference.ReferencePasses`.

    One reduction at most, then one apply: the two share a hand-over, and a second apply
    would overwrite what the first has left there.

    Raises:
        RuntimeError: For a reduction after another, or for anything after an apply.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._hand_over: _HandOver | None = None
        self._is_applied = False

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of each map."""
        self.x, mean = _Mean.apply(self.x, self._reduced())
        return mean

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
        self.x, mean, var = _Moments.apply(self.x, self._reduced())
        return mean, var

    def pointwise(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``scale * (x - pivot) + shift`` in the dtype of ``x``."""
        self._apply()
        coefficients = self._per_map(pivot, scale, shift)
        return _Pointwise.apply(self.x, *coefficients, self._hand_over)

    def depthwise(
        self, pivot: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, bias: Tensor
    ) -> Tensor:
        """``depthwise(scale * (x - pivot) + shift; kernel) + bias`` in ``x``'s dtype."""
        self._apply()
        pivot, scale, shift, bias = self._per_map(pivot, scale, shift, bias)
        return _Depthwise.apply(
            self.x, pivot, scale, shift, kernel, bias, self._hand_over
        )

    def _reduced(self) -> '_HandOver':
        if self._hand_over is not None or self._is_applied:
            raise RuntimeError('a call has one reduction, before its apply')
        self._hand_over = _HandOver()
        return self._hand_over

    def _apply(self) -> None:
        if self._is_applied:
            raise RuntimeError('a call has one apply')
        self._is_applied = True

    def _per_map(self, *coefficients: Tensor) -> list[Tensor]:
        # Those of a layer in float64 may be wider than what is computed in.
        dtype = compute_dtype(self.x)
        return [c.to(dtype).expand(self.x.shape[:2]) for c in coefficients]


class _HandOver:
    """What the backward of a reduction needs to know of the apply after it."""

    scale: Tensor | None = None
    kernel: Tensor | None = None  # where the last pass makes ``u`` of ``dy`` again


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hand_over):
        ctx.hand_over, ctx.positions = hand_over, x.shape[2] * x.shape[3]
        return x, passes.mean(x)

    @staticmethod
    @first_order
    def backward(ctx, u, grad_mean):
        offset = grad_mean / ctx.positions
        grad = passes.combine(u, ctx.hand_over.scale, u, offset=offset)
        return grad.to(u.dtype), None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hand_over):
        ctx.hand_over, ctx.positions = hand_over, x.shape[2] * x.shape[3]
        mean, var = passes.moments(x)
        ctx.save_for_backward(x, mean)
        return x, mean, var

    @staticmethod
    @first_order
    def backward(ctx, u, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        slope, offset = grad_var * (2 / ctx.positions), grad_mean / ctx.positions
        grad = passes.combine(u, ctx.hand_over.scale, x, mean, slope, offset)
        return grad.to(x.dtype), None


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, hand_over):
        _leave(ctx, hand_over, scale)
        ctx.save_for_backward(x, pivot, scale)
        return passes.normalize(x, pivot, scale, shift).to(x.dtype)

    @staticmethod
    @first_order
    def backward(ctx, u):
        x, pivot, scale = ctx.saved_tensors
        moment, total = passes.sums(u, x, pivot)
        return _back(ctx, u, scale), -scale * total, moment, total, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, kernel, bias, hand_over):
        _leave(ctx, hand_over, scale)
        ctx.save_for_backward(x, pivot, scale, shift, kernel)
        normalized = passes.normalize(x, pivot, scale, shift).to(x.dtype)
        return passes.depthwise(normalized, kernel, bias)

    @staticmethod
    @first_order
    def backward(ctx, grad):
        x, pivot, scale, shift, kernel = ctx.saved_tensors
        normalized = passes.normalize(x, pivot, scale, shift).to(x.dtype)
        u, of_kernel = passes.depthwise_backward(grad, normalized, kernel)
        moment, total = passes.sums(u, x, pivot)
        of_bias = grad.sum(dim=(2, 3), dtype=scale.dtype)
        back = _back(ctx, u, scale)
        return back, -scale * total, moment, total, of_kernel, of_bias, None


def _leave(ctx: Any, hand_over: _HandOver | None, scale: Tensor) -> None:
    ctx.is_handed_over = hand_over is not None
    if hand_over is not None:
        # Detached: the graph of scale leads to the reduction, which would never be freed.
        hand_over.scale = scale.detach()


def _back(ctx: Any, u: Tensor, scale: Tensor) -> Tensor:
    """The gradient of ``x``: for the reduction to complete, or on its own."""
    return u if ctx.is_handed_over else passes.combine(u, scale, u).to(u.dtype)
