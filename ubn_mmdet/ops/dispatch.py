"""Decides which implementation of the passes over ``x`` runs: the only place that does."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from . import fused, reference

_use_reference = ContextVar('_use_reference', default=False)


def passes_for(x: Tensor) -> ModuleType:
    """``fused`` where it can run, else ``reference``; same functions in both."""
    if (
        # A compiler fuses the operations itself, and torch.func has its own rules.
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or x.numel() == 0
        or x.device.type not in ('cpu', 'cuda')
        or _use_reference.get()
    ):
        return reference
    return fused


@contextlib.contextmanager
def reference_passes() -> Iterator[None]:
    """Layers within it run in the reference's operations: twice differentiable."""
    token = _use_reference.set(True)
    try:
        yield
    finally:
        _use_reference.reset(token)
