"""The precision that statistics and coefficients are computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch


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
