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
``scale`` in the :class:`Link` that the pair shares.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .algebra import BLOCK, Moments, compute_dtype, over_positions


class Link:
    """What the backward of moments needs to know of the apply that used its ``x``."""

    scale: Tensor


def moments(x: Tensor) -> Moments:
    """``K, V``: mean and biased variance of each map."""
    link = Link()
    return Moments(*_Moments.apply(x, link), link)


def spatial_mean(x: Tensor) -> Moments:
    """``K`` alone."""
    link = Link()
    x, mean = _Mean.apply(x, link)
    return Moments(x, mean, None, link)


def apply_pointwise(m: Moments, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * (x - pivot) + shift`` in the dtype of ``x``."""
    return _Pointwise.apply(m.x, *_per_map(m.x, pivot, scale, shift), m.link)


def apply_depthwise(
    m: Moments,
    pivot: Tensor,
    scale: Tensor,
    shift: Tensor,
    kernel: Tensor,
    bias: Tensor,
) -> Tensor:
    """``depthwise(scale * (x - pivot) + shift; kernel) + bias`` in the dtype of ``x``."""
    pivot, scale, shift, bias = _per_map(m.x, pivot, scale, shift, bias)
    return _Depthwise.apply(m.x, pivot, scale, shift, kernel, bias, m.link)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, link):
        ctx.link, ctx.positions = link, x.shape[2] * x.shape[3]
        return x, x.mean(dim=(2, 3), dtype=compute_dtype(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, u, grad_mean):
        shift = grad_mean / ctx.positions
        return _affine(u, ctx.link.scale, shift).to(u.dtype), None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, link):
        ctx.link, ctx.positions = link, x.shape[2] * x.shape[3]
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
    @once_differentiable
    def backward(ctx, u, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        slope = grad_var * (2 / ctx.positions)
        grad = _affine(x, slope, grad_mean / ctx.positions - slope * mean)
        scale = over_positions(ctx.link.scale)
        return grad.addcmul_(u.to(grad.dtype), scale).to(x.dtype), None


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, link):
        _link(ctx, link, scale)
        ctx.save_for_backward(x, pivot, scale)
        return _affine(x, scale, shift - scale * pivot).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        x, pivot, scale = ctx.saved_tensors
        total, moment = _reduce(u, x, pivot)
        return _back(ctx, u, scale), -scale * total, moment, total, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, kernel, bias, link):
        _link(ctx, link, scale)
        ctx.save_for_backward(x, pivot, scale, shift, kernel)
        normalized = _affine(x, scale, shift - scale * pivot).to(x.dtype)
        weight = kernel[:, None].to(x.dtype)
        padding = kernel.shape[-1] // 2
        y = F.conv2d(normalized, weight, padding=padding, groups=len(kernel))
        return y.add_(over_positions(bias))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, pivot, scale, shift, kernel = ctx.saved_tensors
        normalized = _affine(x, scale, shift - scale * pivot).to(x.dtype)
        padding = [kernel.shape[-1] // 2] * 2
        u, of_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            normalized,
            kernel[:, None].to(x.dtype),
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


def _link(ctx, link: Link | None, scale: Tensor) -> None:
    ctx.is_linked = link is not None
    if ctx.is_linked:
        # Detached: the graph of scale leads to moments, which would never be freed.
        link.scale = scale.detach()


def _back(ctx, u: Tensor, scale: Tensor) -> Tensor:
    """The gradient of ``x``: for moments to complete, or on its own."""
    return u if ctx.is_linked else (u * over_positions(scale)).to(u.dtype)


def _per_map(x: Tensor, *coefficients: Tensor) -> list[Tensor]:
    return [c.expand(x.shape[:2]) for c in coefficients]


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
        one = torch.ones_like(scale).flatten()
        maps = x.view(1, -1, *x.shape[2:])
        coefficients = scale.flatten(), shift.flatten(), torch.zeros_like(one), one
        y, _, _ = torch.native_batch_norm(maps, *coefficients, False, 0.0, 0.0)
        return y.view_as(x)
    scale, shift = over_positions(scale), over_positions(shift)
    return torch.addcmul(shift, x.to(scale.dtype), scale)


def _has_flat_maps(x: Tensor) -> bool:
    """Whether BatchNorm's CPU kernels can take each map of ``x`` as a channel."""
    return x.device.type == 'cpu' and x.is_contiguous()


def _reduce(u: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    """``sum u`` and ``sum u*(x - pivot)`` over positions, ``(N, C)`` each."""
    if _has_flat_maps(x) and u.is_contiguous():
        # What BatchNorm's backward does for a channel, done for each map as a channel.
        flat = (1, -1, *x.shape[2:])
        one = torch.ones_like(pivot).flatten()
        _, moment, total = torch.ops.aten.native_batch_norm_backward(
            u.view(flat), x.view(flat), one, None, None,
            pivot.flatten(), one, True, 0.0, [False, True, True],
        )  # fmt: skip
        return total.view_as(pivot), moment.view_as(pivot)
    u = u.to(pivot.dtype)
    centred = x - over_positions(pivot)
    return u.sum(dim=(2, 3)), centred.mul_(u).sum(dim=(2, 3))
