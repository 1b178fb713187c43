"""The passes over ``x``, each as fast as PyTorch's operations allow; without a graph.

``fused.py`` and ``closed_form.py`` make differentiable functions of them. Coefficients
are in :func:`~ubn_mmdet.ops.algebra.compute_dtype`: ``(N, C)``, one for each map, or, where
it says so, ``(C,)``.

On a CPU PyTorch's BatchNorm kernels are several times as fast as broadcasting operations,
and take each map of a contiguous ``x`` as a channel of one sample.
"""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import constants
from .algebra import blocks, compute_dtype, over_positions

LARGE_MAP = 4096  # positions: the kernel is repeated sample by sample, which takes time


def mean(x: Tensor) -> Tensor:
    """``K``, ``(N, C)``: the mean of each map."""
    return x.mean(dim=(2, 3), dtype=compute_dtype(x))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
    if not has_flat_maps(x):
        wide = x.to(compute_dtype(x))
        var, mean = _moments(wide.flatten(2), dim=2)
        return mean, var
    # Some maps at a time, so that x comes from memory once and no second tensor of its
    # size is filled: both cost more than the arithmetic.
    maps = x.view(-1, x.shape[2] * x.shape[3])
    parts = [_moments(part.to(compute_dtype(x)), dim=1) for part in blocks(maps, dim=0)]
    if len(parts) == 1:
        [(var, mean)] = parts
    else:
        var, mean = (torch.cat(values) for values in zip(*parts, strict=True))
    return mean.view(x.shape[:2]), var.view(x.shape[:2])


def _moments(wide: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Like ``torch.var_mean``, which on a CPU takes ten times as long."""
    mean = wide.mean(dim=dim, keepdim=True)
    squares = torch.ops.aten.mse_loss(wide, mean, 0)  # (wide - mean)^2 in one operation
    return squares.mean(dim=dim), mean.squeeze(dim)


def normalize(
    x: Tensor,
    pivot: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    var: Tensor | None = None,
    eps: float = 0.0,
    spare: Tensor | None = None,
) -> Tensor:
    """``weight * (x - pivot) / sqrt(var + eps) + bias``.

    In the coefficients' dtype, or, where all are ``(C,)``, in that of ``x``. No
    view: behind the layer it may be changed in place.

    Args:
        x: ``(N, C, H, W)``.
        pivot: ``(N, C)``; or ``(C,)``, as then are the others.
        weight: None for 1.
        bias: None for 0.
        var: None for 1, with ``eps`` 0.
        eps: Added to it.
        spare: Of the shape and layout of ``x``; may be written to, for new memory costs
            more than the arithmetic. None for a new tensor.
    """
    if pivot.dim() == 1:
        var = constants.ones(len(pivot), pivot) if var is None else var
        y, _, _ = torch.native_batch_norm(x, weight, bias, pivot, var, False, 0.0, eps)
        return y
    if has_flat_maps(x) and x.dtype == pivot.dtype:
        y = spare if _fits(spare, x) else torch.empty_like(x)
        unused = constants.ones(0, pivot)
        torch.ops.aten.native_batch_norm.out(
            x.view(_flat(x)),
            None if weight is None else _flattened(weight),
            None if bias is None else _flattened(bias),
            _flattened(pivot), _var(var, pivot), False, 0.0, eps,
            out=y.view(_flat(x)), save_mean=unused, save_invstd=unused,
        )  # fmt: skip
        return y
    scale = weight
    if var is not None:
        inv_std = torch.rsqrt(var + eps)
        scale = inv_std if weight is None else weight * inv_std
    scale = torch.ones_like(pivot) if scale is None else scale
    if bias is None:
        shift = -scale * pivot
    else:
        shift = torch.addcmul(bias, scale, pivot, value=-1)
    return torch.addcmul(
        over_positions(shift), x.to(pivot.dtype), over_positions(scale)
    )


def sums(
    u: Tensor,
    x: Tensor,
    pivot: Tensor,
    var: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``sum u * (x - pivot) / sqrt(var + eps)`` and ``sum u``.

    The sums are over the positions of each map, ``(N, C)``; for a ``pivot`` of ``(C,)``
    over the samples, too. Arguments as for :func:`normalize`.
    """
    if pivot.dim() == 1:
        var = constants.ones(len(pivot), pivot) if var is None else var
        return _batch_norm_sums(u, x, pivot, var, eps)
    if has_flat_maps(x) and u.is_contiguous():
        moment, total = _batch_norm_sums(
            u.view(_flat(x)), x.view(_flat(x)), _flattened(pivot), _var(var, pivot), eps
        )
        return moment.view_as(pivot), total.view_as(pivot)
    u = u.to(pivot.dtype)
    centred = x - over_positions(pivot)
    moment = centred.mul_(u).sum(dim=(2, 3))
    if var is not None:
        moment = moment * torch.rsqrt(var + eps)
    return moment, u.sum(dim=(2, 3))


def combine(
    u: Tensor,
    scale: Tensor,
    x: Tensor,
    pivot: Tensor | None = None,
    slope: Tensor | None = None,
    offset: Tensor | None = None,
    spare: Tensor | None = None,
) -> Tensor:
    """``scale * u + slope * (x - pivot) + offset``, in the coefficients' dtype.

    Coefficients are ``(N, C)`` or ``(C,)``, all alike but for ``scale``; None for 0.
    ``spare`` as for :func:`normalize`.
    """
    if slope is None:
        if offset is None:
            return u * over_positions(scale)
        return normalize(u, torch.zeros_like(offset), scale.expand_as(offset), offset)
    assert pivot is not None  # a slope comes with one
    y = normalize(x.to(scale.dtype), pivot, slope, offset, spare=spare)
    return y.addcmul_(u.to(scale.dtype), over_positions(scale))


def _batch_norm_sums(
    u: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    _, moment, total = torch.ops.aten.native_batch_norm_backward(
        u, x, constants.ones(len(mean), mean), mean, var, None, None, False, eps,
        [False, True, True],
    )  # fmt: skip
    return moment, total


def depthwise(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of ``(N, C, H, W)`` with ``(C, k, k)``, padded with zeros.

    Plus ``bias``, ``(N, C)`` or ``(C,)``; None for 0. In the dtype of ``x``.
    """
    weight, padding = kernel.unsqueeze(1).to(x.dtype), kernel.shape[-1] // 2
    if bias is None or not _convolution_adds(bias, x):
        y = F.conv2d(x, weight, padding=padding, groups=len(kernel))
        return y if bias is None else (y + over_positions(bias)).to(x.dtype)
    if bias.dim() == 1:
        return F.conv2d(x, weight, bias, padding=padding, groups=len(kernel))
    # Each map is a channel of one sample, and so has a bias of its own.
    maps, bias = x.view(_flat(x)), bias.flatten()
    y = F.conv2d(
        maps, weight.repeat(len(x), 1, 1, 1), bias, padding=padding, groups=len(bias)
    )
    return torch.ops.aten._unsafe_view(y, x.shape)  # no view for autograd


def _convolution_adds(bias: Tensor, x: Tensor) -> bool:
    """Whether ``depthwise`` has the convolution add a bias, not another pass.

    Not where someone watches: checkpointing may keep what the convolution gave, and what
    is behind the layer may change it in place.
    """
    if bias.dtype != x.dtype or _get_current_dispatch_mode() is not None:
        return False
    if bias.dim() == 1:
        return True
    is_large = x.shape[2] * x.shape[3] >= LARGE_MAP
    return is_large and has_flat_maps(x) and x.dtype == torch.float32


def depthwise_backward(
    grad: Tensor, x: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``kernel``."""
    padding = [kernel.shape[-1] // 2] * 2
    u, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, kernel.unsqueeze(1).to(x.dtype), None,
        [1, 1], padding, [1, 1], False, [0, 0], len(kernel), [True, True, False],
    )  # fmt: skip
    return u, of_weight[:, 0].to(kernel.dtype)


def over_maps(coefficient: Tensor | None, x: Tensor) -> Tensor | None:
    """``(C,)`` to ``(N, C)``, laid out in memory; what is that already stays."""
    if coefficient is None:
        return None
    return coefficient.expand(x.shape[:2]).contiguous()


def _fits(spare: Tensor | None, x: Tensor) -> TypeGuard[Tensor]:
    return spare is not None and spare.dtype == x.dtype


def has_flat_maps(x: Tensor) -> bool:
    """Whether BatchNorm's CPU kernels can take each map of ``x`` as a channel."""
    return x.device.type == 'cpu' and x.is_contiguous()


def _flat(x: Tensor) -> tuple[int, ...]:
    return 1, -1, *x.shape[2:]


def _flattened(coefficient: Tensor) -> Tensor:
    """``(N, C)`` to ``(N*C,)``, each number in a place of its own.

    BatchNorm's kernels read on from the first one, also where an expanded tensor has no
    more than that.
    """
    return coefficient.flatten().contiguous()


def _var(var: Tensor | None, pivot: Tensor) -> Tensor:
    return constants.ones(pivot.numel(), pivot) if var is None else _flattened(var)
