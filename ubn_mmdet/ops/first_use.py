"""The Triton kernels' first use: they are compared with formulas (``trials.py``).

A kernel can be compiled wrongly, or not at all, by versions of Triton or for devices that
nobody has tried. A layer that trains on wrong gradients would not say so.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from . import trials
from .memory import memory_format

DTYPES = tuple(trials.TOLERANCES)  # that the kernels take

_known: dict['Use', bool] = {}
_is_off = False


class Use(NamedTuple):
    """What kernels are compiled for."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    kernel_size: int

    @classmethod
    def of(cls, x: Tensor, kernel_size: int) -> 'Use':
        """That for an input ``x``, ``(N, C, H, W)``."""
        return cls(x.device, x.dtype, memory_format(x), kernel_size)


def known(use: Use) -> bool | None:
    """Whether the kernels are right, or None as long as nobody has compared."""
    return False if _is_off else _known.get(use)


def compare(use: Use) -> bool:
    """Compare the kernels with the formulas; keep and return whether they agree.

    The first time that they do not, or cannot be compiled or launched, a warning says so,
    and none of them is taken again.
    """
    global _is_off
    try:
        # On their own: without autograd, the caller's hooks on saved tensors see nothing.
        with torch.no_grad():
            _compare(use)
    except Exception as error:  # whatever a compiler or a driver may raise
        _is_off = True
        warnings.warn(
            f'ubn_mmdet does without its Triton kernels, which failed on {use.device} '
            f'for {use.dtype} with a kernel of {use.kernel_size}: '
            f'{type(error).__name__}: {error}',
            stacklevel=2,
        )
        return False
    _known[use] = True
    return True


def _compare(use: Use) -> None:
    trials.compare_passes(use.device, use.dtype, use.memory_format, use.kernel_size)
    trials.compare_algebra(use.device, use.kernel_size)
