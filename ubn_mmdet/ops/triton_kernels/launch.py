"""Starts kernels: the one place that does, and that can note them instead."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """A kernel with what it is given.

    Attributes:
        kernel: Its name.
        programs: How many run.
        arguments: By the names of its parameters, constants left out.
    """

    kernel: str
    programs: int
    arguments: dict[str, Any]


_noted: ContextVar[list[Launch] | None] = ContextVar('_noted', default=None)


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run ``kernel(x, *args, **constants)`` on the device of ``x``."""
    noted = _noted.get()
    if noted is not None:
        arguments = dict(zip(kernel.arg_names, (x, *args), strict=False))
        noted.append(Launch(kernel.__name__, programs, arguments))
        return
    # Triton launches on the current device, whatever device its arguments are on.
    with torch.cuda.device_of(x):
        kernel[(programs,)](x, *args, **constants)


@contextlib.contextmanager
def noting() -> Iterator[list[Launch]]:
    """Within it launches are noted in the list, and not done: any device will do."""
    noted: list[Launch] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
