"""Decides which implementation of the passes over ``x`` runs: the only place that does."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .fused import FusedPasses
from .reference import ReferencePasses

Passes = FusedPasses | ReferencePasses
_use_reference = ContextVar('_use_reference', default=False)


def passes_for(x: Tensor) -> Passes:
    """The passes of one call on ``x``: fused where they can be, else the reference."""
    return FusedPasses(x) if is_by_hand(x) else ReferencePasses(x)


def is_by_hand(x: Tensor) -> bool:
    """Whether a call on ``x`` may have a hand-written backward."""
    return not (
        # A trace records a hand-written backward as an opaque Python function.
        torch.jit.is_tracing()
        # A compiler fuses the operations itself, and torch.func has its own rules.
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or type(x) not in (Tensor, nn.Parameter)  # and so have others' tensors
        or x.numel() == 0
        or x.device.type not in ('cpu', 'cuda')
        or _use_reference.get()
    )


@contextlib.contextmanager
def reference_passes() -> Iterator[None]:
    """Layers within it run in the reference's operations: twice differentiable."""
    token = _use_reference.set(True)
    try:
        yield
    finally:
        _use_reference.reset(token)
