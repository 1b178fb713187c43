"""The Triton kernels' first use: they are compared with plain formulas in float64.

A kernel can be compiled wrongly, or not at all, by versions of Triton or for devices that
nobody has tried. A layer that trains on wrong gradients would not say so.
"""

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import over_positions
from .memory import memory_format

# Several tiles of positions, the last one not full, in either memory format.
SHAPE = (2, 3, 40, 60)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
DTYPES = tuple(TOLERANCES)  # that the kernels take

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
    from . import triton_kernels

    n, c, _, _ = SHAPE
    generator = torch.Generator().manual_seed(0)  # the caller's stays as it is

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to(use.device, dtype)

    x = (3 + random(*SHAPE)).to(use.dtype, memory_format=use.memory_format)
    dy = random(*SHAPE).to(use.dtype, memory_format=use.memory_format)
    pivot, scale, shift, bias, slope, offset = random(6, n, c)
    var, eps = random(1, c).square().expand(n, c), 0.1
    kernel = random(c, use.kernel_size, use.kernel_size)
    if use.kernel_size == 1:
        kernel = bias = None

    # In the same order and form as the formulas below.
    mean, var, gram = triton_kernels.moments(x, gram=True)
    got = {
        'moments': torch.stack([mean, var]),
        'moments alone': torch.stack(triton_kernels.moments(x)[:2]),
        'Gram matrix': gram,
        'apply': triton_kernels.apply(x, pivot, scale, shift, kernel, bias, var, eps),
        'gradient': triton_kernels.gradient(dy, scale, kernel, x, pivot, slope, offset),
    }
    sums = triton_kernels.reduce(dy, x, pivot, scale, shift, kernel, var, eps)
    got |= {f'sums of {name}': value for name, value in sums._asdict().items()}
    plain = triton_kernels.reduce(dy, x, pivot, scale, shift, kernel)
    got['sums of pivot'] = plain.pivot

    x, dy, pivot, scale, shift, slope, offset, var = (
        t.cpu().double() for t in (x, dy, pivot, scale, shift, slope, offset, var)
    )
    xhat = (x - over_positions(pivot)) * over_positions(torch.rsqrt(var + eps))
    z = over_positions(scale) * xhat + over_positions(shift)
    y, u, of_kernel, of_bias = z, dy, None, None
    if kernel is not None:
        weight = kernel.cpu().double().unsqueeze(1)
        like = {'padding': use.kernel_size // 2, 'groups': c}
        y = F.conv2d(z, weight, **like) + over_positions(bias.cpu().double())
        u = F.conv_transpose2d(dy, weight, **like)
        of_kernel = torch.nn.grad.conv2d_weight(z, weight.shape, dy, **like)[:, 0]
        of_bias = dy.sum(dim=(2, 3))
    dx = over_positions(slope) * (x - over_positions(pivot)) + over_positions(offset)
    dx = dx + over_positions(scale) * u
    var, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    want = {
        'moments': torch.stack([mean, var]),
        'moments alone': torch.stack([mean, var]),
        'Gram matrix': x.flatten(1) @ x.flatten(1).T,
        'apply': y,
        'gradient': dx,
        'sums of scale': (u * xhat).sum(dim=(2, 3)),
        'sums of pivot': -scale * u.sum(dim=(2, 3)),
        'sums of shift': u.sum(dim=(2, 3)),
        'sums of kernel': of_kernel,
        'sums of bias': of_bias,
    }
    for name, expected in want.items():
        if expected is not None:
            _assert_close(name, got[name].cpu().double(), expected, use.dtype)


def _assert_close(name: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    difference = (got - want).abs().max().item()
    allowed = TOLERANCES[dtype] * want.abs().max().item()
    if not difference <= allowed:  # nan is none
        raise ArithmeticError(
            f'{name} differ by {difference:.3g} from the reference, {allowed:.3g} allowed'
        )
