"""The passes over ``x`` with a backward by hand: nothing is saved but ``x``.

Per map of ``M`` positions, with ``u`` the gradient of ``z = scale * (x - pivot) + shift``
(``dy``, or what a transposed depthwise convolution makes of it):

- The backward of the apply is one reduction: ``sum u`` and ``sum u * (x - pivot)`` are the
  gradients of the coefficients.
- In between autograd goes through the ``(N, C)`` tensors, and ends at ``dK`` and ``dV``.
- The backward of the reduction is one apply:
  ``dx = scale * u + 2*dV/M * (x - K) + dK/M``.

The backward of the apply does not write ``scale * u`` for that of the reduction to read
again. It passes on what ``u`` is made of, as the gradient of the ``x`` that came out of the
reduction, and leaves ``scale`` in the :class:`_HandOver`.

What works on tensors alone, without autograd, is a :class:`Backend`: that of PyTorch's
operations is at the end of this file, that of Triton in ``triton_passes/``.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .tensors import CACHED, WholeMaps, compute_dtype, over_positions


class Coefficients(NamedTuple):
    """What an apply makes its result with.

    With ``z = scale * (x - pivot) + shift`` that is ``z``, or, with a kernel,
    ``depthwise(z; kernel) + bias``, padded with zeros, ``k // 2`` on each side. A kernel is
    ``(C, k, k)``, or None as its bias is; the others are ``(N, C)`` or ``(C,)``.
    """

    pivot: Tensor
    scale: Tensor
    shift: Tensor
    kernel: Tensor | None = None
    bias: Tensor | None = None


class Sums(NamedTuple):
    """What the backward of an apply gives.

    Attributes:
        u_source: Of the shape of ``x``: what ``Backend.gradient`` makes ``u`` of.
        scale: ``sum u * (x - pivot)`` over each map, ``(N, C)``.
        shift: ``sum u``, likewise.
        kernel: The gradient of the kernel, ``(C, k, k)``, or None where there is none.
        bias: ``sum dy`` over each map, ``(N, C)``, likewise.
    """

    u_source: Tensor
    scale: Tensor
    shift: Tensor
    kernel: Tensor | None = None
    bias: Tensor | None = None


class Backend(NamedTuple):
    """The passes on tensors. Coefficients are ``(N, C)`` in ``compute_dtype(x)``.

    Attributes:
        mean: ``mean(x)`` is ``K``, ``(N, C)``.
        moments: ``moments(x)`` is ``K, V``, ``(N, C)`` each.
        apply: ``apply(x, coefficients)`` is the result, in the dtype of ``x``.
        sums: ``sums(dy, x, coefficients)`` are the :class:`Sums`.
        gradient: ``gradient(u_source, kernel, scale, x, pivot, slope, offset)`` is
            ``scale * u + slope * (x - pivot) + offset`` in the dtype of ``x``; ``slope``
            and ``offset`` may be None for 0, and ``pivot`` with ``slope``.
    """

    mean: Callable[[Tensor], Tensor]
    moments: Callable[[Tensor], tuple[Tensor, Tensor]]
    apply: Callable[[Tensor, Coefficients], Tensor]
    sums: Callable[[Tensor, Tensor, Coefficients], Sums]
    gradient: Callable[..., Tensor]


class FusedPasses(WholeMaps):
    """The passes of one call, as in :class:`~ubn_mmdet.ops.passes.ReferencePasses`.

    One reduction at most, then one apply: the two share a :class:`_HandOver`.

    Args:
        x: ``(N, C, H, W)``.
        backend: What to compute with; PyTorch's operations if None.
    """

    def __init__(self, x: Tensor, backend: Backend | None = None) -> None:
        self.x = x
        self.backend = backend or EAGER
        self._hand_over = _HandOver(self.backend)

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of each map."""
        return self._reduce(with_var=False)[0]

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
        return self._reduce(with_var=True)

    def apply(self, coefficients: Coefficients) -> Tensor:
        """The result, in the dtype of ``x``."""
        if self._hand_over.scale is not None:  # its gradients would be wrong
            raise RuntimeError('the passes of a call apply once after a reduction')
        # Those of a layer in float64 may be wider than what is computed in.
        dtype, maps = compute_dtype(self.x), self.x.shape[:2]
        *of_maps, kernel, bias = coefficients
        of_maps = [c.to(dtype).expand(maps) for c in of_maps]
        if kernel is not None and bias is not None:
            kernel, bias = kernel.to(dtype), bias.to(dtype).expand(maps)
        return _Apply.apply(self.x, *of_maps, kernel, bias, self._hand_over)

    def _reduce(self, with_var: bool) -> tuple[Tensor, Tensor]:
        if self._hand_over.is_reduced:  # its gradients would be wrong
            raise RuntimeError('the passes of a call reduce once')
        self._hand_over.is_reduced = True
        self.x, mean, var = _Reduce.apply(self.x, with_var, self._hand_over)
        return mean, var


class _HandOver:
    """What the two passes of a call know of each other.

    It holds tensors without a graph: that of ``scale`` leads to the reduction, whose
    backward has this call, and would never be freed.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.is_reduced = False
        self.scale: Tensor | None = None
        self.kernel: Tensor | None = None


def first_order(backward: Callable) -> Callable:
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


class _Reduce(torch.autograd.Function):
    """``x`` to ``x, K, V``; ``V`` is None where it is not asked for."""

    @staticmethod
    def forward(ctx, x, with_var, hand_over):
        ctx.hand_over = hand_over
        ctx.set_materialize_grads(False)
        if with_var:
            mean, var = hand_over.backend.moments(x)
        else:
            mean, var = hand_over.backend.mean(x), None
        ctx.save_for_backward(x, mean)
        return x, mean, var

    @staticmethod
    @first_order
    def backward(ctx, u_source, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        positions, hand_over = x.shape[2] * x.shape[3], ctx.hand_over
        offset = None if grad_mean is None else grad_mean / positions
        slope = None if grad_var is None else grad_var * (2 / positions)
        scale, kernel = hand_over.scale, hand_over.kernel
        if u_source is None:  # nothing came of the apply
            u_source, scale, kernel = torch.zeros_like(x), torch.zeros_like(mean), None
        grad = hand_over.backend.gradient(
            u_source, kernel, scale, x, mean, slope, offset
        )
        return grad, None, None


class _Apply(torch.autograd.Function):
    """``x`` and coefficients to the result."""

    @staticmethod
    def forward(ctx, x, pivot, scale, shift, kernel, bias, hand_over):
        coefficients = Coefficients(pivot, scale, shift, kernel, bias)
        ctx.backend, ctx.has_reduction = hand_over.backend, hand_over.is_reduced
        if hand_over.is_reduced:
            hand_over.scale = scale.detach()
            hand_over.kernel = None if kernel is None else kernel.detach()
        ctx.save_for_backward(x, pivot, scale, shift, kernel)
        return hand_over.backend.apply(x, coefficients)

    @staticmethod
    @first_order
    def backward(ctx, dy):
        x, pivot, scale, shift, kernel = ctx.saved_tensors
        sums = ctx.backend.sums(dy, x, Coefficients(pivot, scale, shift, kernel))
        grad = None
        if ctx.has_reduction:
            # Not yet a gradient of x: the backward of the reduction makes one of it.
            grad = sums.u_source
        elif ctx.needs_input_grad[0]:
            grad = ctx.backend.gradient(
                sums.u_source, kernel, scale, x, None, None, None
            )
        of_pivot = -scale * sums.shift if ctx.needs_input_grad[1] else None
        return grad, of_pivot, sums.scale, sums.shift, sums.kernel, sums.bias, None


# --- the passes in PyTorch's operations ---------------------------------------------
#
# On a CPU PyTorch's BatchNorm kernels are several times as fast as broadcasting operations,
# and take each map of a contiguous x as a channel of one sample. On a GPU it is the other
# way round, and broadcasting operations fit every memory format.


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), dtype=compute_dtype(x))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x)
    if not _has_flat_maps(x):
        var, mean = torch.var_mean(x.to(dtype), dim=(2, 3), correction=0)
        return mean, var
    # var_mean takes five times as long on a CPU. A cache full of maps at a time, so that x
    # comes from memory once, and the squares never go there.
    maps = x.view(-1, x.shape[2] * x.shape[3])
    means, variances = [], []
    for part in maps.split(max(CACHED // maps.shape[1], 1)):
        part = part.to(dtype)
        mean = part.mean(dim=1, keepdim=True)
        squares = F.mse_loss(part, mean.expand_as(part), reduction='none')
        means.append(mean.squeeze(1))
        variances.append(squares.mean(dim=1))
    return _joined(means).view(x.shape[:2]), _joined(variances).view(x.shape[:2])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _apply(x: Tensor, coefficients: Coefficients) -> Tensor:
    pivot, scale, shift, kernel, bias = coefficients
    z = _affine(x, pivot, scale, shift).to(x.dtype)
    if kernel is None or bias is None:
        return z
    weight, padding = _weight(kernel, x), kernel.shape[-1] // 2
    if _get_current_dispatch_mode() is not None:
        # Selective checkpointing may keep what a convolution gave: so it is not changed
        # in place, neither here nor by what comes after the layer.
        y = F.conv2d(z, weight, padding=padding, groups=len(kernel))
        return (y + over_positions(bias)).to(x.dtype)
    if bias.stride(0) == 0:  # one for all samples
        bias = bias[0].to(x.dtype)
        return F.conv2d(z, weight, bias, padding=padding, groups=len(kernel))
    y = F.conv2d(z, weight, padding=padding, groups=len(kernel))
    return y.add_(over_positions(bias))


def _sums(dy: Tensor, x: Tensor, coefficients: Coefficients) -> Sums:
    pivot, scale, shift, kernel, _ = coefficients
    if kernel is None:
        return Sums(dy, *_sums_over_maps(dy, x, pivot))
    z = _affine(x, pivot, scale, shift).to(x.dtype)
    padding = [kernel.shape[-1] // 2] * 2
    u, of_kernel, _ = torch.ops.aten.convolution_backward(
        dy, z, _weight(kernel, x), None,
        [1, 1], padding, [1, 1], False, [0, 0], len(kernel), [True, True, False],
    )  # fmt: skip
    of_bias = dy.sum(dim=(2, 3), dtype=pivot.dtype)
    of_kernel = of_kernel[:, 0].to(kernel.dtype)
    return Sums(u, *_sums_over_maps(u, x, pivot), of_kernel, of_bias)


def _gradient(
    u: Tensor,
    kernel: Tensor | None,  # is in u already
    scale: Tensor,
    x: Tensor,
    pivot: Tensor | None,
    slope: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    if slope is None or pivot is None:
        y = u * over_positions(scale)
        return (y if offset is None else y.add_(over_positions(offset))).to(x.dtype)
    y = _affine(x, pivot, slope, torch.zeros_like(slope) if offset is None else offset)
    return y.addcmul_(u.to(scale.dtype), over_positions(scale)).to(x.dtype)


EAGER = Backend(_mean, _moments, _apply, _sums, _gradient)


def _affine(x: Tensor, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * (x - pivot) + shift`` in the coefficients' dtype."""
    wide = x.to(pivot.dtype)
    if not _has_flat_maps(x):
        shift = torch.addcmul(shift, scale, pivot, value=-1)
        return torch.addcmul(over_positions(shift), wide, over_positions(scale))
    pivot, scale, shift = map(_flattened, (pivot, scale, shift))
    ones = torch.ones_like(pivot)
    y, _, _ = torch.native_batch_norm(
        wide.view(_flat(x)), scale, shift, pivot, ones, False, 0.0, 0.0
    )
    # No view for autograd: what comes after the layer may change it in place.
    return torch.ops.aten._unsafe_view(y, x.shape)


def _sums_over_maps(u: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    """``sum u * (x - pivot)`` and ``sum u`` over each map, ``(N, C)`` each."""
    if not (_has_flat_maps(x) and u.is_contiguous()):
        u = u.to(pivot.dtype)
        moment = (x - over_positions(pivot)).mul_(u).sum(dim=(2, 3))
        return moment, u.sum(dim=(2, 3))
    pivot = _flattened(pivot)
    ones = torch.ones_like(pivot)
    _, moment, total = torch.ops.aten.native_batch_norm_backward(
        u.view(_flat(x)), x.view(_flat(x)), ones, pivot, ones, None, None, False, 0.0,
        [False, True, True],
    )  # fmt: skip
    return moment.view(x.shape[:2]), total.view(x.shape[:2])


def _weight(kernel: Tensor, x: Tensor) -> Tensor:
    """``(C, k, k)`` as the weight of a depthwise convolution of ``x``."""
    return kernel.unsqueeze(1).to(x.dtype)


def _has_flat_maps(x: Tensor) -> bool:
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
