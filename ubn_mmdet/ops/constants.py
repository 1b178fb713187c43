"""Small constant tensors that a call need not make anew.

For the hand-written functions alone: a compiler, or tensors without data, must not meet
what was made outside of them (``dispatch.py`` keeps them apart).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar('T', int, tuple)
Make = Callable[[T, torch.dtype, torch.device], Tensor]


def ones(count: int, like: Tensor) -> Tensor:
    """``(count,)`` ones in the dtype and on the device of ``like``. Do not change them."""
    return _constant(_ones, count, like)


def zero(like: Tensor) -> Tensor:
    """``()`` zero, likewise."""
    return _constant(_zeros, (), like)


def delta(size: int, like: Tensor) -> Tensor:
    """``(size, size)``, one in the middle of zeros, likewise."""
    return _constant(_delta, size, like)


def _constant(make: Make[T], what: T, like: Tensor) -> Tensor:
    # On a CPU alone: what is made while a CUDA graph is recorded has no values before
    # that is replayed.
    if like.device.type != 'cpu':
        return make(what, like.dtype, like.device)
    return _kept(make, what, like.dtype)


@lru_cache(maxsize=64)
def _kept(make: Make[T], what: T, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # they outlive it
        return make(what, dtype, torch.device('cpu'))


def _ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=dtype, device=device)


def _zeros(shape: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def _delta(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    kernel = torch.zeros(size, size, dtype=dtype, device=device)
    kernel[size // 2, size // 2] = 1
    return kernel
