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

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import BLOCK, compute_dtype, over_positions


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
        return [c.expand(self.x.shape[:2]) for c in coefficients]


class _HandOver:
    """What the backward of a reduction needs to know of the apply after it."""

    scale: Tensor | None = None


def _first_order(backward: Callable) -> Callable:
    """Refuse to be differentiated: what a backward here does, autograd does not see.

    ``once_differentiable`` refuses only if a gradient that comes in needs one itself;
    otherwise a second derivative would silently lack what goes through here.
    """

    @wraps(backward)
    def checked(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError(
                'the hand-written backward of ubn_mmdet cannot be differentiated '
                '(create_graph=True); run the layer within ubn_mmdet.reference_passes()'
            )
        return backward(ctx, *gradients)

    return checked


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hand_over):
        ctx.hand_over, ctx.positions = hand_over, x.shape[2] * x.shape[3]
        return x, x.mean(dim=(2, 3), dtype=compute_dtype(x))

    @staticmethod
    @_first_order
    def backward(ctx, u, grad_mean):
        shift = grad_mean / ctx.positions
        return _affine(u, ctx.hand_over.scale, shift).to(u.dtype), None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hand_over):
        ctx.hand_over, ctx.positions = hand_over, x.shape[2] * x.shape[3]
        if _has_flat_maps(x):
            mean, deviation = _mean_and_deviation(x)
        else:
            wide = x.to(compute_dtype(x))
            mean = wide.mean(dim=(2, 3))
            centred = wide - over_positions(mean)
            deviation = torch.linalg.vector_norm(centred, dim=(2, 3))
        ctx.save_for_backward(x, mean)
        return x, mean, deviation.square() / ctx.positions

    @staticmethod
    @_first_order
    def backward(ctx, u, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        slope = grad_var * (2 / ctx.positions)
        grad = _affine(x, slope, grad_mean / ctx.positions - slope * mean)
        scale = over_positions(ctx.hand_over.scale)
        return grad.addcmul_(u.to(grad.dtype), scale).to(x.dtype), None


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, hand_over):
        _leave(ctx, hand_over, scale)
        ctx.save_for_backward(x, pivot, scale)
        return _affine(x, scale, shift - scale * pivot).to(x.dtype)

    @staticmethod
    @_first_order
    def backward(ctx, u):
        x, pivot, scale = ctx.saved_tensors
        total, moment = _reduce(u, x, pivot)
        return _back(ctx, u, scale), -scale * total, moment, total, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, kernel, bias, hand_over):
        _leave(ctx, hand_over, scale)
        ctx.save_for_backward(x, pivot, scale, shift, kernel)
        normalized = _affine(x, scale, shift - scale * pivot).to(x.dtype)
        weight = kernel.unsqueeze(1).to(x.dtype)
        padding = kernel.shape[-1] // 2
        y = F.conv2d(normalized, weight, padding=padding, groups=len(kernel))
        # Not in place: checkpointing may keep what the convolution gave.
        return (y + over_positions(bias)).to(x.dtype)

    @staticmethod
    @_first_order
    def backward(ctx, grad):
        x, pivot, scale, shift, kernel = ctx.saved_tensors
        normalized = _affine(x, scale, shift - scale * pivot).to(x.dtype)
        padding = [kernel.shape[-1] // 2] * 2
        u, of_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            normalized,
            kernel.unsqueeze(1).to(x.dtype),
            None,
            [1, 1],
            padding,
            [1, 1],
            False,
            [0, 0],
            len(kernel),
            [True, True, False],
        )
        total, moment = _reduce(u, x, pivot)
        of_bias = grad.sum(dim=(2, 3), dtype=scale.dtype)
        of_kernel = of_weight[:, 0].to(kernel.dtype)
        back = _back(ctx, u, scale)
        return back, -scale * total, moment, total, of_kernel, of_bias, None


def _leave(ctx, hand_over: _HandOver | None, scale: Tensor) -> None:
    ctx.is_handed_over = hand_over is not None
    if hand_over is not None:
        # Detached: the graph of scale leads to the reduction, which would never be freed.
        hand_over.scale = scale.detach()


def _back(ctx, u: Tensor, scale: Tensor) -> Tensor:
    """The gradient of ``x``: for the reduction to complete, or on its own."""
    return u if ctx.is_handed_over else (u * over_positions(scale)).to(u.dtype)


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each map, and the norm of what deviates from it, ``(N, C)`` each.

    Some maps at a time, so that ``x`` comes from memory once and no second tensor of its
    size is filled: both cost more than the arithmetic.
    """
    maps = x.view(-1, x.shape[2] * x.shape[3])
    mean = maps.new_empty(len(maps), dtype=compute_dtype(x))
    deviation = torch.empty_like(mean)
    length = max(BLOCK // maps.shape[1], 1)
    parts = maps.split(length), mean.split(length), deviation.split(length)
    for some, to_mean, to_deviation in zip(*parts, strict=True):
        some = some.to(mean.dtype)
        torch.mean(some, 1, out=to_mean)
        torch.linalg.vector_norm(some - to_mean[:, None], dim=1, out=to_deviation)
    return mean.view(x.shape[:2]), deviation.view(x.shape[:2])


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * x + shift`` in the dtype of the coefficients, in one pass."""
    if _has_flat_maps(x) and x.dtype == scale.dtype:
        # BatchNorm's evaluation, each map as a channel: three times as fast as what
        # PyTorch makes of two broadcast operands.
        one = torch.ones_like(_flat(scale))
        flat = 1, -1, *x.shape[2:]
        # Into y, for a result that is no view: behind the layer it may change in place.
        y, unused = torch.empty_like(x), scale.new_empty(0)
        torch.ops.aten.native_batch_norm.out(
            x.view(flat), _flat(scale), _flat(shift), torch.zeros_like(one), one,
            False, 0.0, 0.0, out=y.view(flat), save_mean=unused, save_invstd=unused,
        )  # fmt: skip
        return y
    scale, shift = over_positions(scale), over_positions(shift)
    return torch.addcmul(shift, x.to(scale.dtype), scale)


def _flat(coefficient: Tensor) -> Tensor:
    """``(N, C)`` to ``(N*C,)``, each number in a place of its own.

    BatchNorm's kernels read on from the first one, also where an expanded tensor has no
    more than that.
    """
    return coefficient.flatten().contiguous()


def _has_flat_maps(x: Tensor) -> bool:
    """Whether BatchNorm's CPU kernels can take each map of ``x`` as a channel."""
    return x.device.type == 'cpu' and x.is_contiguous()


def _reduce(u: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    """``sum u`` and ``sum u*(x - pivot)`` over positions, ``(N, C)`` each."""
    if _has_flat_maps(x) and u.is_contiguous():
        # What BatchNorm's backward does for a channel, done for each map as a channel.
        flat = (1, -1, *x.shape[2:])
        one = torch.ones_like(_flat(pivot))
        _, moment, total = torch.ops.aten.native_batch_norm_backward(
            u.view(flat), x.view(flat), one, None, None,
            _flat(pivot), one, True, 0.0, [False, True, True],
        )  # fmt: skip
        return total.view_as(pivot), moment.view_as(pivot)
    u = u.to(pivot.dtype)
    centred = x - over_positions(pivot)
    return u.sum(dim=(2, 3)), centred.mul_(u).sum(dim=(2, 3))
