"""Starts a kernel: the one place that does."""

import torch
from torch import Tensor


def launch(kernel, programs: int, x: Tensor, *args, **constants) -> None:
    """Run ``kernel(x, *args, **constants)`` on the device of ``x``."""
    # Triton launches on the current device, whatever device its arguments are on.
    with torch.cuda.device_of(x):
        kernel[(programs,)](x, *args, **constants)
