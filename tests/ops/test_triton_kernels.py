"""Each Triton kernel against the reference: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from helpers.layers import images
from helpers.passes import applied, coefficients

pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet.ops.memory import memory_format  # noqa: E402
from ubn_mmdet.ops.triton_kernels import tiles  # noqa: E402
from ubn_mmdet.ops.triton_kernels.moments import GRAM_SAMPLES  # noqa: E402

from ubn_mmdet.ops import triton_kernels  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SHAPES = [
    (2, 3, 23, 50),  # more than one tile of positions, the last one not full
    (3, 66, 2, 3),  # more than one tile of channels, likewise
    (1, 1, 1, 2),
    (5, 2, 1, 7),  # no row above or below
]
# All shapes in float32, the other dtypes with one.
CASES = [(s, torch.float32) for s in SHAPES] + [
    (SHAPES[1], dtype) for dtype in (torch.float16, torch.bfloat16)
]
CASES = pytest.mark.parametrize(('shape', 'dtype'), CASES, ids=str)
EVERY_FORMAT = pytest.mark.parametrize('layout', FORMATS)
KERNELS = pytest.mark.parametrize('kernel_size', [1, 3])


def maps(shape, dtype=torch.float32, layout='contiguous', seed=0):
    x = images(*shape, seed=seed).to(DEVICE, dtype)
    return x.contiguous(memory_format=FORMATS[layout])


def assert_close(got, want, dtype=torch.float32):
    scale = want.abs().max().item()
    tolerance = {'rtol': TOLERANCES[dtype], 'atol': TOLERANCES[dtype] * scale}
    torch.testing.assert_close(got.double(), want, **tolerance)


@CASES
@EVERY_FORMAT
def test_moments(shape, dtype, layout):
    x = maps(shape, dtype, layout)
    mean, var, gram = triton_kernels.moments(x)
    expected_var, expected_mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    # The moments of half-precision numbers are as exact as those of others.
    assert_close(mean, expected_mean)
    assert_close(var, expected_var)
    assert gram is None


@pytest.mark.parametrize('samples', [1, 2, 3, GRAM_SAMPLES])
@EVERY_FORMAT
def test_the_gram_matrix_comes_with_the_moments(samples, layout):
    x = maps((samples, 3, 4, 5), torch.float16, layout)
    mean, var, gram = triton_kernels.moments(x, gram=True)
    alone = triton_kernels.moments(x)
    assert_close(mean, alone[0].double())
    assert_close(var, alone[1].double())
    flat = x.double().flatten(1)
    assert_close(gram, flat @ flat.T)


@EVERY_FORMAT
def test_the_gram_matrix_of_many_tiles(layout, monkeypatch):
    monkeypatch.setattr(tiles, 'PROGRAMS', 4)
    x = maps((2, 66, 5, 30), torch.float32, layout)
    mean, _, gram = triton_kernels.moments(x, gram=True)
    flat = x.double().flatten(1)
    assert_close(gram, flat @ flat.T)
    assert_close(mean, x.double().mean((2, 3)))


@EVERY_FORMAT
@pytest.mark.parametrize('programs', [1, 2048])  # one after the other, or merged
def test_moments_far_from_zero(layout, programs, monkeypatch):
    monkeypatch.setattr(tiles, 'PROGRAMS', programs)
    x = 1e4 + 0.01 * maps((2, 2, 40, 70), layout=layout)
    x[0, 0, 0, 0] = 0  # nothing may be counted from the first
    mean, var, _ = triton_kernels.moments(x)
    expected_var, expected_mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-3, atol=0)


def test_squares_that_half_precision_has_not():
    x = 300 * maps((2, 2, 8, 8), torch.float16)
    mean, var, gram = triton_kernels.moments(x, gram=True)
    assert_close(var, x.double().var((2, 3), correction=0))
    assert_close(gram, x.double().flatten(1) @ x.double().flatten(1).T)


@CASES
@EVERY_FORMAT
@KERNELS
def test_apply(shape, dtype, layout, kernel_size):
    x = maps(shape, dtype, layout)
    given = coefficients(x, kernel_size)
    y = triton_kernels.apply(x, **given)
    assert y.dtype == dtype and memory_format(y) == memory_format(x)
    expected, _ = applied(x, x, given)
    assert_close(y, expected, dtype)


@CASES
@EVERY_FORMAT
@KERNELS
def test_reduce(shape, dtype, layout, kernel_size):
    x, dy = maps(shape, dtype, layout), maps(shape, dtype, layout, seed=1)
    given = coefficients(x, kernel_size)
    given.pop('bias', None)
    sums = triton_kernels.reduce(dy, x, **given)
    if kernel_size > 1:
        given['bias'] = torch.zeros_like(given['pivot'])
    _, expected = applied(x, dy, given)
    for name in given:
        assert_close(getattr(sums, name), expected[name])


@CASES
@EVERY_FORMAT
@KERNELS
def test_gradient(shape, dtype, layout, kernel_size):
    x, dy = maps(shape, dtype, layout), maps(shape, dtype, layout, seed=1)
    given = coefficients(x, kernel_size)
    _, expected = applied(x, dy, given)
    offset, slope, pivot = coefficients(x, seed=3).values()
    options = given['scale'], given.get('kernel')
    dx = triton_kernels.gradient(dy, *options)
    assert dx.dtype == dtype and memory_format(dx) == memory_format(x)
    assert_close(dx, expected['x'], dtype)
    expected = expected['x'] + offset.double()[..., None, None]
    dx = triton_kernels.gradient(dy, *options, offset=offset)
    assert_close(dx, expected, dtype)
    deviation = x.double() - pivot.double()[..., None, None]
    expected = expected + slope.double()[..., None, None] * deviation
    dx = triton_kernels.gradient(dy, *options, x, pivot, slope, offset)
    assert_close(dx, expected, dtype)


@EVERY_FORMAT
@KERNELS
def test_programs_that_take_several_tiles(layout, kernel_size, monkeypatch):
    monkeypatch.setattr(tiles, 'PROGRAMS', 3)
    shape = 2, 1, 25, 70
    x, dy = maps(shape, layout=layout), maps(shape, seed=1)
    dy = dy.contiguous(memory_format=FORMATS[layout])
    division = tiles.divide(x, elements=256)
    assert division.splits > 1 and division.length > division.positions
    given = coefficients(x, kernel_size)
    y, expected = applied(x, dy, given)
    assert_close(triton_kernels.apply(x, **given), y)
    dx = triton_kernels.gradient(dy, given['scale'], given.get('kernel'))
    assert_close(dx, expected['x'])
    bias = given.pop('bias', None)
    sums = triton_kernels.reduce(dy, x, **given)
    for name in given:
        assert_close(getattr(sums, name), expected[name])
    if bias is not None:
        assert_close(sums.bias, expected['bias'])


@pytest.mark.parametrize('kernel_size', [5, 7])
def test_larger_kernels(kernel_size):
    x, dy = maps((2, 2, 6, 9)), maps((2, 2, 6, 9), seed=1)
    given = coefficients(x, kernel_size)
    y, expected = applied(x, dy, given)
    assert_close(triton_kernels.apply(x, **given), y)
    dx = triton_kernels.gradient(dy, given['scale'], given['kernel'])
    assert_close(dx, expected['x'])
    del given['bias']
    sums = triton_kernels.reduce(dy, x, **given)
    for name, value in sums._asdict().items():
        assert_close(value, expected[name])


@KERNELS
def test_coefficients_of_channels(kernel_size):
    x = maps((3, 2, 4, 5))
    given = coefficients(x, kernel_size)
    shared = {
        name: value if name == 'kernel' else value[:1].expand(3, 2)
        for name, value in given.items()
    }
    expected, gradients = applied(x, x, shared)
    assert_close(triton_kernels.apply(x, **shared), expected)
    dx = triton_kernels.gradient(x, shared['scale'], shared.get('kernel'))
    assert_close(dx, gradients['x'])
    shared.pop('bias', None)
    sums = triton_kernels.reduce(x, x, **shared)
    for name in shared:
        assert_close(getattr(sums, name), gradients[name])


@KERNELS
def test_with_a_variance_and_without_the_rest(kernel_size):
    x, dy = maps((3, 2, 4, 5)), maps((3, 2, 4, 5), seed=1)
    given = coefficients(x, kernel_size)
    var = given['scale'].square()[:1].expand(3, 2)
    std = (var + 0.1).sqrt()
    root = {'var': var, 'eps': 0.1}
    divided = given | {'scale': given['scale'] / std}
    expected, gradients = applied(x, dy, divided)
    assert_close(triton_kernels.apply(x, **given, **root), expected)
    given.pop('bias', None)
    sums = triton_kernels.reduce(dy, x, **given, **root)
    assert sums.pivot is None
    assert_close(sums.scale, gradients['scale'] / std.double())
    assert_close(sums.shift, gradients['shift'])

    one = torch.ones_like(std)
    bare = {'scale': one / std, 'shift': 0 * one}
    if kernel_size > 1:
        assert_close(sums.kernel, gradients['kernel'])
        bare['bias'] = 0 * one
    expected, gradients = applied(x, dy, divided | bare)
    given = given | {'scale': None, 'shift': None}
    assert_close(triton_kernels.apply(x, **given, **root), expected)
    sums = triton_kernels.reduce(dy, x, **given, **root)
    assert_close(sums.scale, gradients['scale'] / std.double())
    if kernel_size > 1:
        assert_close(sums.kernel, gradients['kernel'])


def test_more_parts_than_are_added_up_at_once():
    x, dy = maps((1, 1, 140, 128)), maps((1, 1, 140, 128), seed=1)
    assert tiles.divide(x).splits > 16
    mean, var, _ = triton_kernels.moments(x)
    expected_var, expected_mean = torch.var_mean(x.double(), (2, 3), correction=0)
    assert_close(mean, expected_mean)
    assert_close(var, expected_var)
    given = coefficients(x)
    _, expected = applied(x, dy, given)
    sums = triton_kernels.reduce(dy, x, **given)
    for name in given:
        assert_close(getattr(sums, name), expected[name])


def test_the_gradient_of_a_kernel_is_of_all_samples():
    x, dy = maps((17, 1, 2, 3)), maps((17, 1, 2, 3), seed=1)
    given = coefficients(x, kernel_size=3)
    _, expected = applied(x, dy, given)
    del given['bias']
    assert_close(triton_kernels.reduce(dy, x, **given).kernel, expected['kernel'])
