"""The passes over a layer's input: what they are, their reference, and which run.

A *map* is one channel of one sample. A layer goes over its input ``x``, ``(N, C, H, W)``,
in two passes: it *reduces* each map to its mean ``K`` and biased variance ``V``, ``(N, C)``
each, and it *applies* an affine function to each map, followed, if the layer has a kernel,
by a depthwise convolution. All else is arithmetic on ``(N, C)`` tensors, which autograd
differentiates (``layers/pipeline.py``).

There are three implementations with the same methods. :class:`ReferencePasses`, below, is
made of differentiable operations. :class:`~ubn_mmdet.ops.fused.FusedPasses` have a backward
by hand, which saves nothing but ``x``; they run in PyTorch's operations, or, opt-in, in the
Triton kernels of ``triton_passes/``.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from .fused import Coefficients, FusedPasses
from .recompute import remembered
from .tensors import WholeMaps, compute_dtype, is_empty, over_positions


class ReferencePasses(WholeMaps):
    """The passes of one call: a reduction over the positions of ``x``, and an apply.

    Args:
        x: ``(N, C, H, W)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    # Zero where there are no positions, and part of the graph all the same: a rank
    # without elements must go through the backward of what all ranks have merged.

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of each map."""
        reduce = torch.sum if is_empty(self.x) else torch.mean
        return reduce(self.x, dim=(2, 3), dtype=compute_dtype(self.x))

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
        if is_empty(self.x):
            zeros = self.mean()
            return zeros, zeros
        wide = self.x.to(compute_dtype(self.x))
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
        return mean, var

    # In terms of x - pivot: the coefficients' gradients are then sums over deviations,
    # exact also where the mean is large against the deviation.

    def apply(self, coefficients: Coefficients) -> Tensor:
        """The result, in the dtype of ``x``."""
        pivot, scale, shift, kernel, bias = coefficients
        normalized = self._affine(pivot, scale, shift)
        if kernel is None or bias is None:
            return normalized.to(self.x.dtype)
        if is_empty(self.x):  # the convolution refuses maps without positions
            y = normalized + 0 * kernel.sum()
        else:
            channels, _, size = kernel.shape
            weight = kernel.unsqueeze(1).to(normalized.dtype)
            # Two numbers: in a trace they are tensors, and PyTorch up to 2.5 takes one
            # tensor for a list.
            padding = size // 2, size // 2
            y = F.conv2d(normalized, weight, padding=padding, groups=channels)
        return (y + over_positions(bias)).to(self.x.dtype)

    def _affine(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        centred = self.x - over_positions(pivot)
        return centred * over_positions(scale) + over_positions(shift)


Passes = FusedPasses | ReferencePasses
CHOICES = ('fused', 'triton', 'reference')
VARIABLE = 'UBN_MMDET_PASSES'
_choice: ContextVar[str | None] = ContextVar('_choice', default=None)


def passes_for(x: Tensor, layer: nn.Module | None = None) -> Passes:
    """The passes of one call on ``x``, each of them differentiable.

    That is ``FusedPasses`` in PyTorch's operations, unless :func:`choose_passes` or
    ``UBN_MMDET_PASSES`` in the environment says otherwise; and the reference where nothing
    else can run: in compiled and traced functions, in transforms of ``torch.func`` and
    forward-mode differentiation, for empty input and for subclasses of tensors.

    Args:
        x: The input, ``(N, C, H, W)``.
        layer: Whose call it is. Repeated in a backward, it runs as it ran before.

    Raises:
        ValueError: If ``UBN_MMDET_PASSES`` is none of ``CHOICES``.
        ImportError: If Triton is chosen and cannot be imported.
    """
    if (
        torch.compiler.is_compiling()  # fuses by itself, and reads no context variable
        # A trace records a hand-written backward as an opaque Python function.
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or type(x) not in (Tensor, nn.Parameter)
        or x.numel() == 0
        or x.device.type not in ('cpu', 'cuda')
    ):
        return ReferencePasses(x)
    choice = _choice.get()
    if layer is not None:
        choice = remembered(layer, 'passes', choice, x)
    choice = choice or _checked(os.environ.get(VARIABLE) or 'fused', VARIABLE)
    if choice == 'reference':
        return ReferencePasses(x)
    if choice == 'triton':
        # Here, because nothing but this needs Triton.
        from .triton_passes import BACKEND, can_run

        if can_run(x):
            return FusedPasses(x, BACKEND)
    return FusedPasses(x)


@contextlib.contextmanager
def choose_passes(name: str) -> Iterator[None]:
    """Layers within it run by the implementation of that name, wherever it can run.

    Args:
        name: ``'fused'``: PyTorch's operations with the hand-written backward, the
            default. ``'triton'``: kernels for NVIDIA GPUs; on a CPU under
            ``TRITON_INTERPRET=1``. ``'reference'``: twice differentiable operations.

    Raises:
        ValueError: For another name.
    """
    token = _choice.set(_checked(name, 'choose_passes'))
    try:
        yield
    finally:
        _choice.reset(token)


def reference_passes() -> contextlib.AbstractContextManager[None]:
    """Layers within it run in the reference's operations: twice differentiable."""
    return choose_passes('reference')


def _checked(name: str, what: str) -> str:
    if name not in CHOICES:
        raise ValueError(f'{what} must be one of {", ".join(CHOICES)}, got {name!r}')
    return name
