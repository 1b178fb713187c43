"""Decides which implementation of the passes over ``x`` runs: the only place that does.

On its own it takes the Triton kernels for an NVIDIA GPU, where they can be had and their
first use showed them to be right; the hand-written backward in PyTorch's operations
elsewhere; and the reference where only that can run. ``UBN_MMDET_PASSES`` in the
environment, or :func:`choose_passes`, says otherwise.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

from . import eager_steps, first_use
from .fused import FusedPasses
from .recompute import is_recomputation
from .reference import ReferencePasses

Passes = FusedPasses | ReferencePasses
CHOICES = ('triton', 'fused', 'reference')
VARIABLE = 'UBN_MMDET_PASSES'
_choice: ContextVar[str | None] = ContextVar('_choice', default=None)


def passes_for(x: Tensor, kernel_size: int = 1) -> Passes:
    """The passes of one call on ``x``, each of them differentiable.

    Args:
        x: The input, ``(N, C, H, W)``.
        kernel_size: Of the depthwise stage; 1 for none.

    Raises:
        ValueError: If ``UBN_MMDET_PASSES`` is none of ``CHOICES``.
        ImportError: If Triton is chosen by hand and cannot be imported.
    """
    name = implementation_for(x, kernel_size)
    if name == 'triton':
        # Here, because nothing but this needs Triton.
        from .triton_passes import TritonPasses

        return TritonPasses(x)
    return FusedPasses(x) if name == 'fused' else ReferencePasses(x)


def steps_for(x: Tensor, kernel_size: int = 1) -> ModuleType | None:
    """The same choice for ``closed_form.py``; None where the reference has to run."""
    name = implementation_for(x, kernel_size)
    if name == 'triton':
        from . import triton_steps

        return triton_steps
    return eager_steps if name == 'fused' else None


def implementation_for(x: Tensor, kernel_size: int = 1) -> str:
    """Its name, one of ``CHOICES``; arguments and errors as for :func:`passes_for`."""
    # A compiler fuses the operations itself, and cannot read a context variable.
    if torch.compiler.is_compiling():
        return 'reference'
    choice = _choice.get() or _from_environment()
    if (
        choice == 'reference'
        # A trace records a hand-written backward as an opaque Python function.
        or torch.jit.is_tracing()
        # torch.func has its own rules.
        or torch._C._are_functorch_transforms_active()
        or type(x) not in (Tensor, nn.Parameter)  # and so have others' tensors
        or x.numel() == 0
        or x.device.type not in ('cpu', 'cuda')
    ):
        return 'reference'
    if choice == 'triton':
        takes = _is_for_kernels(x) and (_is_on_nvidia(x) or _is_interpreted())
    else:
        takes = choice is None and _is_on_nvidia(x) and _is_for_kernels(x)
        takes = takes and _is_trusted(x, kernel_size)
    return 'triton' if takes else 'fused'


@contextlib.contextmanager
def choose_passes(name: str) -> Iterator[None]:
    """Layers within it run by the implementation of that name, wherever it can run.

    Args:
        name: ``'triton'``: the kernels, without the comparison at their first use; on a
            CPU under ``TRITON_INTERPRET=1``. ``'fused'``: PyTorch's operations with the
            hand-written backward. ``'reference'``: twice differentiable operations.

    Raises:
        ValueError: For another name.
    """
    token = _choice.set(_checked(name, 'choose_passes'))
    try:
        yield
    finally:
        _choice.reset(token)


def reference_passes() -> contextlib.AbstractContextManager[None]:
    """Layers within it run in the reference's operations: twice differentiable."""
    return choose_passes('reference')


def _from_environment() -> str | None:
    name = os.environ.get(VARIABLE)
    return _checked(name, VARIABLE) if name else None


def _checked(name: str, what: str) -> str:
    if name not in CHOICES:
        raise ValueError(f'{what} must be one of {", ".join(CHOICES)}, got {name!r}')
    return name


def _is_on_nvidia(x: Tensor) -> bool:
    return x.is_cuda and torch.version.hip is None


def _is_interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET') == '1'


def _is_for_kernels(x: Tensor) -> bool:
    return (
        x.dtype in first_use.DTYPES
        # They count a sample's elements in 32 bits.
        and x.numel() // len(x) < 2**31
    )


def _is_trusted(x: Tensor, kernel_size: int) -> bool:
    """Whether the kernels are there, and right; the first time, this compares them."""
    use = first_use.Use.of(x, kernel_size)
    known = first_use.known(use)
    if known is not None:
        return known
    if (
        find_spec('triton') is None
        # Comparing reads back, and repeating a forward must do what was done before.
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
        or is_recomputation()
    ):
        return False
    return first_use.compare(use)
