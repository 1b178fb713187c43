"""The passes over ``x`` as Triton kernels, for NVIDIA GPUs. Importing this imports Triton.

Opt-in (``choose_passes('triton')``): they have been compiled, and run in Triton's
interpreter, but not on a GPU. ``reduce.py`` and ``apply.py`` each hold a pass and its
backward: the kernels and the functions that launch them. ``tiles.py`` says which program
works on what. Arguments are those of :class:`~ubn_mmdet.ops.fused.Backend`; ``x`` is not
empty, and a channel's own number may be expanded over samples.

A pass reads each of its large tensors once; the neighbours that a convolution reads again
come from a cache. For a kernel, ``u`` is not written: the last pass makes it of ``dy``
again. So k = 1 and k = 3 move the same bytes, BatchNorm's: forward reads ``x`` twice and
writes ``y``; backward reads ``dy`` and ``x`` twice and writes ``dx``. Results do not depend
on the order in which programs run: nothing is added up atomically.
"""

import os

import torch
from torch import Tensor

from ..fused import Backend
from .apply import apply, sums
from .reduce import gradient, mean, moments

BACKEND = Backend(mean, moments, apply, sums, gradient)
DTYPES = torch.float32, torch.float16, torch.bfloat16


def can_run(x: Tensor) -> bool:
    """Whether there are kernels for ``x``: its device, its dtype and its size."""
    on_device = x.is_cuda and torch.version.hip is None
    return (
        (on_device or os.environ.get('TRITON_INTERPRET') == '1')
        and x.dtype in DTYPES
        # They count a sample's elements in 32 bits.
        and x.numel() // len(x) < 2**31
    )
