"""What the package asks of a tensor: how it lies in memory, and what to compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

CACHED = 2**18  # elements that fit a processor's cache


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of statistics and coefficients for input ``x``: float32 or wider."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def over_positions(coefficient: Tensor) -> Tensor:
    """``(..., C)`` to ``(..., C, 1, 1)``."""
    return coefficient.unsqueeze(-1).unsqueeze(-1)


def is_empty(x: Tensor) -> bool:
    """Whether ``x`` has no elements. A traced size is a tensor: a trace has elements."""
    return not torch.jit.is_tracing() and x.numel() == 0


class WholeMaps:
    """An input all of whose positions count.

    Attributes:
        x: ``(N, C, H, W)``.
        positions: That count in the maps of each sample, ``(N, 1)``; None for all.
    """

    x: Tensor
    positions: Tensor | None = None

    @property
    def count(self) -> int:
        """Elements that share a channel."""
        return self.x.numel() // self.x.shape[1]


def memory_format(x: Tensor) -> torch.memory_format:
    """``channels_last`` if ``x``, 4D, is dense in that order alone, else contiguous."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def full_precision(device_type: str) -> AbstractContextManager:
    """A context without autocast, which would lose the precision of statistics."""
    # Before PyTorch 2.6 the first question breaks the graph of a compiled model, whose
    # devices all have autocast.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(
        device_type
    )
    if available and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
