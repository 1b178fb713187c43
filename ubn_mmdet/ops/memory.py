"""How tensors lie in memory."""

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """``channels_last`` if ``x``, 4D, is dense in that order alone, else contiguous."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
