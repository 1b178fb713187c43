"""Triton's four functions against the reference: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from helpers.layers import images
from helpers.passes import applied, coefficients

pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet.ops.fused import Coefficients  # noqa: E402
from ubn_mmdet.ops.tensors import memory_format  # noqa: E402
from ubn_mmdet.ops.triton_passes import BACKEND, tiles  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LONG = 1, 2, 23, 50  # more than one tile of positions, the last one not full
DEEP = 2, 66, 2, 3  # more than one tile of channels, likewise
CASES = pytest.mark.parametrize(
    ('shape', 'dtype', 'layout'),
    [
        (LONG, torch.float32, 'contiguous'),
        (LONG, torch.float16, 'channels_last'),
        (DEEP, torch.bfloat16, 'contiguous'),
        (DEEP, torch.float32, 'channels_last'),
        ((1, 1, 1, 2), torch.float32, 'contiguous'),
        ((5, 2, 1, 7), torch.float32, 'channels_last'),  # no row above or below
    ],
    ids=str,
)
LAYOUTS = pytest.mark.parametrize('layout', FORMATS)
SIZES = pytest.mark.parametrize('kernel_size', [1, 3])


def maps(shape, dtype=torch.float32, layout='contiguous', seed=0):
    x = images(*shape, seed=seed).to(DEVICE, dtype)
    return x.contiguous(memory_format=FORMATS[layout])


def assert_close(got, want, dtype=torch.float32):
    scale = want.abs().max().item()
    tolerance = {'rtol': TOLERANCES[dtype], 'atol': TOLERANCES[dtype] * scale}
    torch.testing.assert_close(got.double(), want, **tolerance)


def assert_apply_is_the_references(x, dy, given):
    """The result, and its gradients, also with the reduction's."""
    expected, gradients = applied(x, dy, given)
    y = BACKEND.apply(x, Coefficients(**given))
    assert_like(y, x)
    assert_close(y, expected, x.dtype)

    kernel = given.get('kernel')
    pivot, scale, shift = (given[name] for name in ('pivot', 'scale', 'shift'))
    sums = BACKEND.sums(dy, x, Coefficients(**given))
    assert_close(sums.scale, gradients['scale'])
    assert_close(sums.shift, gradients['shift'])
    if kernel is None:
        assert sums.kernel is None and sums.bias is None
    else:
        assert_close(sums.kernel, gradients['kernel'])
        assert_close(sums.bias, gradients['bias'])

    def gradient(*of_reduction):
        dx = BACKEND.gradient(sums.u_source, kernel, scale, x, *of_reduction)
        assert_like(dx, x)
        return dx

    slope, offset = scale.roll(1, 0), shift.roll(1, 0)
    wide = x.double() - over_positions(pivot)
    want = gradients['x']
    assert_close(gradient(None, None, None), want, x.dtype)
    want = want + over_positions(offset)
    assert_close(gradient(None, None, offset), want, x.dtype)
    want = want + over_positions(slope) * wide
    assert_close(gradient(pivot, slope, offset), want, x.dtype)


def over_positions(coefficient):
    return coefficient.double()[..., None, None]


def assert_like(tensor, x):
    assert tensor.dtype == x.dtype and memory_format(tensor) == memory_format(x)


def assert_moments(x):
    mean, var = BACKEND.moments(x)
    expected_var, expected_mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    # The moments of half-precision numbers are as exact as those of others.
    assert_close(mean, expected_mean)
    assert_close(var, expected_var)
    assert torch.equal(BACKEND.mean(x), mean)


@CASES
def test_moments(shape, dtype, layout):
    assert_moments(maps(shape, dtype, layout))


@LAYOUTS
@pytest.mark.parametrize('programs', [1, 2048])  # one after the other, or merged
def test_moments_far_from_zero(layout, programs, monkeypatch):
    monkeypatch.setattr(tiles, 'PROGRAMS', programs)
    x = 1e4 + 0.01 * maps((2, 2, 40, 70), layout=layout)
    x[0, 0, 0, 0] = 0  # nothing may be counted from the first
    mean, var = BACKEND.moments(x)
    expected_var, expected_mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-3, atol=0)


def test_squares_that_half_precision_has_not():
    assert_moments(300 * maps((2, 2, 8, 8), torch.float16))


@CASES
@SIZES
def test_apply_and_its_gradients(shape, dtype, layout, kernel_size):
    x, dy = maps(shape, dtype, layout), maps(shape, dtype, layout, seed=1)
    assert_apply_is_the_references(x, dy, coefficients(x, kernel_size))


def test_a_larger_kernel():
    x, dy = maps((2, 2, 6, 9)), maps((2, 2, 6, 9), seed=1)
    assert_apply_is_the_references(x, dy, coefficients(x, kernel_size=5))


@pytest.mark.parametrize(
    ('kernel_size', 'layout'),
    [(1, 'contiguous'), (3, 'contiguous'), (3, 'channels_last')],
)
def test_programs_that_take_several_tiles(kernel_size, layout, monkeypatch):
    monkeypatch.setattr(tiles, 'PROGRAMS', 3)
    shape = 1, 2, 25, 70
    x, dy = maps(shape, layout=layout), maps(shape, layout=layout, seed=1)
    division = tiles.divide(x, elements=256)
    assert division.splits > 1 and division.length > division.positions
    assert_apply_is_the_references(x, dy, coefficients(x, kernel_size))


@SIZES
def test_coefficients_of_channels(kernel_size):
    """Expanded over the samples, as BatchNorm's are."""
    x, dy = maps((3, 2, 4, 5)), maps((3, 2, 4, 5), seed=1)
    given = {
        name: value if name == 'kernel' else value[:1].expand(3, 2)
        for name, value in coefficients(x, kernel_size).items()
    }
    assert_apply_is_the_references(x, dy, given)


def test_more_parts_than_are_added_up_at_once():
    x, dy = maps((1, 1, 140, 128)), maps((1, 1, 140, 128), seed=1)
    assert tiles.divide(x).splits > tiles.ROWS
    assert_moments(x)
    assert_apply_is_the_references(x, dy, coefficients(x))


def test_the_gradient_of_a_kernel_is_of_all_samples():
    x, dy = maps((tiles.ROWS + 1, 1, 2, 3)), maps((tiles.ROWS + 1, 1, 2, 3), seed=1)
    assert_apply_is_the_references(x, dy, coefficients(x, kernel_size=3))
