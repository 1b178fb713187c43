"""Decides which implementation of the passes over ``x`` runs: the only place that does."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from . import fused, plain_autograd

_use_plain = ContextVar('_use_plain', default=False)


def passes_for(x: Tensor) -> ModuleType:
    """``fused`` where it can run, else ``plain_autograd``; same functions in both."""
    if (
        # A compiler fuses the plain operations itself, and torch.func has its own rules.
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or x.numel() == 0
        or x.device.type not in ('cpu', 'cuda')
        or _use_plain.get()
    ):
        return plain_autograd
    return fused


@contextlib.contextmanager
def plain_autograd_passes() -> Iterator[None]:
    """Within it, layers run in plain operations, which can be differentiated twice."""
    token = _use_plain.set(True)
    try:
        yield
    finally:
        _use_plain.reset(token)
