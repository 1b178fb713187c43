"""The passes over ``x`` on a GPU: hand-written backward, each pass one Triton kernel.

The same functions, and the same derivation of the backward, as in ``fused.py``. There is
one step more of it: for a depthwise stage, ``u`` is not written. The backward of the apply
reduces what ``dy`` and ``x`` make of it, and hands over ``dy`` and the kernel, of which
the last pass makes ``u`` again. So k = 1 and k = 3 move the same bytes, BatchNorm's:
forward reads ``x`` twice and writes ``y``; backward reads ``dy`` and ``x`` twice and
writes ``dx``.

Importing this imports Triton.
"""

import torch
from torch import Tensor

from . import triton_kernels
from .first_order import first_order
from .fused import FusedPasses
from .memory import memory_format


class TritonPasses(FusedPasses):
    """The passes of one call, as in :class:`~ubn_mmdet.ops.fused.FusedPasses`.

    Args:
        x: ``(N, C, H, W)`` of a dtype in ``first_use.DTYPES``, not empty. One that is
            dense in neither memory format is copied.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.contiguous(memory_format=memory_format(x)))

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of each map."""
        mean, _ = self.moments()
        return mean

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of each map."""
        self.x, mean, var = _Moments.apply(self.x, self._reduced())
        return mean, var

    def pointwise(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``scale * (x - pivot) + shift`` in the dtype of ``x``."""
        self._apply()
        coefficients = self._per_map(pivot, scale, shift)
        return _Apply.apply(self.x, *coefficients, None, None, self._hand_over)

    def depthwise(
        self, pivot: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, bias: Tensor
    ) -> Tensor:
        """``depthwise(scale * (x - pivot) + shift; kernel) + bias`` in ``x``'s dtype."""
        self._apply()
        pivot, scale, shift, bias = self._per_map(pivot, scale, shift, bias)
        return _Apply.apply(
            self.x, pivot, scale, shift, kernel.float(), bias, self._hand_over
        )

    def _per_map(self, *coefficients: Tensor) -> list[Tensor]:
        return [c.float() for c in super()._per_map(*coefficients)]


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hand_over):
        mean, var, _ = triton_kernels.moments(x)
        ctx.hand_over = hand_over
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        return x, mean, var

    @staticmethod
    @first_order
    def backward(ctx, dy, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        positions = x.shape[2] * x.shape[3]
        offset = None if grad_mean is None else grad_mean / positions
        slope = None if grad_var is None else grad_var * (2 / positions)
        if dy is None:  # nothing came of the apply
            dy, scale, kernel = torch.zeros_like(x), torch.zeros_like(mean), None
        else:
            scale, kernel = ctx.hand_over.scale, ctx.hand_over.kernel
        dx = triton_kernels.gradient(dy, scale, kernel, x, mean, slope, offset)
        return dx, None


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pivot, scale, shift, kernel, bias, hand_over):
        ctx.is_handed_over = hand_over is not None
        if hand_over is not None:
            # Detached: their graph leads to the reduction, which would never be freed.
            hand_over.scale = scale.detach()
            hand_over.kernel = None if kernel is None else kernel.detach()
        ctx.save_for_backward(x, pivot, scale, shift, kernel)
        return triton_kernels.apply(x, pivot, scale, shift, kernel, bias)

    @staticmethod
    @first_order
    def backward(ctx, dy):
        x, pivot, scale, shift, kernel = ctx.saved_tensors
        dy = dy.contiguous(memory_format=memory_format(x))
        sums: tuple[Tensor | None, ...] = (None,) * 5
        if any(ctx.needs_input_grad[1:]):
            sums = triton_kernels.reduce(dy, x, pivot, scale, shift, kernel)
        dx = None
        if ctx.is_handed_over:
            dx = dy  # for the backward of the moments to complete
        elif ctx.needs_input_grad[0]:
            dx = triton_kernels.gradient(dy, scale, kernel)
        return dx, *sums, None
