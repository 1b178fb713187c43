"""The precision that statistics and coefficients are computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device_type: str) -> AbstractContextManager:
    """A context without autocast, which would lose the precision of statistics."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(
        device_type
    ):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
