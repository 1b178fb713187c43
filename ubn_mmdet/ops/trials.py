"""Trials of the Triton kernels against plain formulas in float64, on small tensors.

Those of the passes are written out here; those in between are what ``eager_algebra.py``
makes of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import algebra, eager_algebra
from .algebra import over_positions
from .coefficients import Form, Learnt
from .eager_algebra import Saved, Sums
from .normalizer import Averages, Normalizer

# Several tiles of positions, the last one not full, in either memory format.
SHAPE = (2, 3, 40, 60)
Values = Mapping[str, Tensor | None]
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def compare_passes(
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    kernel_size: int,
) -> None:
    """The passes over ``x``.

    Args:
        device: To run the kernels on.
        dtype: Of ``x``.
        memory_format: Of ``x``.
        kernel_size: Of the depthwise kernel; 1 for none.

    Raises:
        ArithmeticError: If one differs.
    """
    from . import triton_kernels

    n, c, _, _ = SHAPE
    random = _random_on(device)
    x = (3 + random(*SHAPE)).to(dtype, memory_format=memory_format)
    dy = random(*SHAPE).to(dtype, memory_format=memory_format)
    pivot, scale, shift, biases, slope, offset = random(6, n, c)
    var, eps = random(1, c).square().expand(n, c), 0.1
    kernel = bias = None
    if kernel_size > 1:
        kernel, bias = random(c, kernel_size, kernel_size), biases

    # In the same order and form as the formulas below.
    mean, var, gram = triton_kernels.moments(x, gram=True)
    got: dict[str, Tensor | None] = {
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
    if kernel is not None and bias is not None:
        weight = kernel.cpu().double().unsqueeze(1)
        like: dict[str, Any] = {'padding': kernel_size // 2, 'groups': c}
        y = F.conv2d(z, weight, **like) + over_positions(bias.cpu().double())
        u = F.conv_transpose2d(dy, weight, **like)
        of_kernel = conv2d_weight(z, weight.shape, dy, **like)[:, 0]
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
    _assert_close(got, want, TOLERANCES[dtype])


def compare_algebra(device: torch.device, kernel_size: int) -> None:
    """What is between the passes, in one launch each way, and in two as ranks need it.

    Args:
        device: To run the kernels on.
        kernel_size: Of the depthwise kernel; 1 for none.

    Raises:
        ArithmeticError: If one differs.
    """
    from . import triton_kernels

    n, c, h, w = SHAPE
    count, form, random = n * h * w, Form(eps=0.1), _random_on(device)
    mean, var = 1 + random(n, c), 1 + random(n, c).square()
    gram = torch.tensor([[4.0, 3.0], [3.0, 9.0]], device=device)  # a cosine of 1/2
    weight, bias, w_m, w_v, w_b = random(5, c)
    learnt = Learnt(weight, bias, None, w_m, w_v, w_b)
    sums = Sums(mean, random(n, c), random(n, c))  # nobody reads the first
    if kernel_size > 1:
        of_kernel, spatial = random(2, c, kernel_size, kernel_size)
        learnt = learnt._replace(spatial_weight=spatial)
        sums = sums._replace(kernel=of_kernel, behind=random(n, c))
    old = {'mean': random(c), 'var': random(c).square(), 'condensation': random(1)[0]}

    K, V, known = _wide(mean), _wide(var), Learnt(*_wide_ones(learnt))
    centred = algebra.center(K, known.centering_weight)
    normalizer = Normalizer(*algebra.batch_statistics(centred, V), None, count)
    forward = eager_algebra.forward(K, None, None, normalizer, known, form)
    given = forward.coefficients
    maps = given.pivot, given.weight, given.sigmoid
    rest = count, None, h * w
    backward = eager_algebra.backward(
        Sums(*_wide_ones(sums)),
        Saved(K, normalizer.var, None, *maps, *rest),
        known, form, to_maps=True,
    )  # fmt: skip
    want: Values = {
        **_named('', given),
        'mean': normalizer.mean,
        'var': normalizer.var,
        'is_open': torch.ones(()),
        'running mean': torch.lerp(_wide(old['mean']), normalizer.mean, 0.25),
        'running var': torch.lerp(
            _wide(old['var']), normalizer.var * count / (count - 1), 0.25
        ),
        'condensation': 0.9 * _wide(old['condensation']) + 0.1 * 0.5,
        **_named('gradient of ', backward.learnt),
        **_named('backward ', backward),
    }

    of_all, *of_maps = (
        None if t is None else t.float().to(device) for t in (normalizer.var, *maps)
    )
    saved: Any = mean, of_all, None, *of_maps, *rest
    of_batch = sums, Saved(*saved), learnt, form
    packed = triton_kernels.pack(mean, var, gram, w_m, count)
    half, statistics = triton_kernels.to_statistics(*of_batch)
    in_two = triton_kernels.to_maps(*of_batch, statistics)
    half = half._replace(centering_weight=in_two.learnt.centering_weight)
    in_one = triton_kernels.gradients(*of_batch, to_maps=True)
    for merged, back in ((None, in_one), (packed, in_two._replace(learnt=half))):
        batches = torch.zeros((), dtype=torch.long, device=device)
        moved = {name: tensor.clone() for name, tensor in old.items()}
        averages = Averages(
            moved['mean'], moved['var'], batches, momentum=0.25, moves=True,
            condensation=moved['condensation'],
            condensation_momentum=0.1, threshold=-1e9,
        )  # fmt: skip
        result = triton_kernels.coefficients(
            mean, var, gram, learnt, form, averages, count, merged
        )
        got: Values = {
            **_named('', result),
            'behind': result.bias,
            'running mean': averages.mean,
            'running var': averages.var,
            'condensation': averages.condensation,
            **_named('gradient of ', back.learnt),
            **_named('backward ', back),
        }
        _assert_close(got, want, TOLERANCES[torch.float32])


def _random_on(device: torch.device) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)  # the caller's stays as it is
    return lambda *shape: torch.randn(*shape, generator=generator).to(device)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.cpu().double()


def _wide_ones(tensors: tuple[Tensor | None, ...]) -> list[Any]:
    return [None if tensor is None else _wide(tensor) for tensor in tensors]


def _named(prefix: str, values: Any) -> dict[str, Tensor]:
    """The tensors that a named tuple has."""
    return {
        prefix + name: value
        for name, value in values._asdict().items()
        if isinstance(value, Tensor)
    }


def _assert_close(got: Values, want: Values, tolerance: float) -> None:
    for name, expected in want.items():
        if expected is None:
            continue
        value = got[name]
        assert value is not None, name
        difference = (_wide(value) - expected).abs().max().item()
        allowed = tolerance * expected.abs().max().item()
        if not difference <= allowed:  # nan is none
            raise ArithmeticError(
                f'{name} differ by {difference:.3g} from the reference, '
                f'{allowed:.3g} allowed'
            )
