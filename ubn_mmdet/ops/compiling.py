"""``torch.compile`` for what lies between the two passes over ``x``; opt-in.

It makes a few kernels of many operations on ``(N, C)`` tensors: UBN keeps fewer than
half of its launches. ``UBN_MMDET_COMPILE=1`` in the environment switches it on. That is
no context manager, because a forward that is repeated in the backward must find the
switch as it was, on whatever thread: activation checkpointing counts what is saved.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .fused import FusedPasses

VARIABLE = 'UBN_MMDET_COMPILE'

T = TypeVar('T')

_has_failed = False


def is_compiled(layer: nn.Module, passes: object) -> bool:
    """Whether what lies between these passes of ``layer`` is to be compiled, and can be.

    It cannot where the reference runs: in functions that are compiled or traced as a
    whole, in transforms, for padded maps; nor under a dispatch mode, which wants to see
    every operation. Nor with a state in float64: PyTorch 2.13 loses what a compiled
    function writes to a number in float64 on a CPU, and nobody trains in it.

    Raises:
        ValueError: If ``UBN_MMDET_COMPILE`` is not 0, 1 or empty.
    """
    value = os.environ.get(VARIABLE, '')
    if value not in ('', '0', '1'):
        raise ValueError(f'{VARIABLE} must be 0 or 1, got {value!r}')
    return (
        value == '1'
        and not _has_failed
        and isinstance(passes, FusedPasses)
        and _get_current_dispatch_mode() is None
        and all(b.dtype != torch.float64 for b in layer.buffers(recurse=False))
    )


class Compiler:
    """Runs functions of a layer and of other tensors, compiled for all their shapes.

    Where compiling fails, there is one warning in a process, and functions run as they
    are written.

    Args:
        layer: The first argument of the functions, which read ``stages``, ``eps``,
            ``momentum``
        names: and the tensors of these names, and nothing else.
    """

    def __init__(self, layer: nn.Module, names: Iterable[str]) -> None:
        self._kind = type(layer), layer.training
        self._layer = SimpleNamespace(
            stages=layer.stages, eps=layer.eps, momentum=layer.momentum
        )
        for name in names:
            tensor = getattr(layer, name)
            # To a compiler the shapes of parameters and of a module's tensors are
            # constants. Those of a view are not, so all widths share a function.
            if isinstance(tensor, nn.Parameter):
                tensor = tensor.view_as(tensor)
            setattr(self._layer, name, tensor)

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """``function(layer, *args)``."""
        global _has_failed
        if not _has_failed:
            run = _compiled(function, self._kind, torch.is_grad_enabled())
            try:
                return run(self._layer, *args)
            # A compiler fails with errors of many classes. One of the layer's own comes
            # again below.
            except Exception as error:
                _has_failed = True
                warnings.warn(
                    f'{VARIABLE}=1, but torch.compile fails, so layers go on uncompiled: '
                    f'{error}',
                    stacklevel=2,
                )
        return function(self._layer, *args)


@cache
def _compiled(function: Any, *kind: object) -> Callable:
    # PyTorch compiles a code object eight times at most, so each kind gets its own.
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__)
    return torch.compile(own, dynamic=True, fullgraph=True)
