"""Layers in Triton's passes against layers in the reference's."""

import pytest
import torch
from helpers.layers import OFF, images, trained
from helpers.passes import gradients

pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet import BGN, choose_passes, reference_passes  # noqa: E402
from ubn_mmdet.ops.passes import passes_for  # noqa: E402
from ubn_mmdet.ops.triton_passes import BACKEND  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def _choose_triton():
    with choose_passes('triton'):
        yield


def maps(*shape, seed=0, dtype=torch.float32, layout='contiguous', alike=True):
    x = images(*shape, seed=seed, alike=alike).to(DEVICE, dtype)
    return x.contiguous(memory_format=FORMATS[layout])


def layer_of(channels, training=True, **settings):
    return trained(channels, **settings).float().to(DEVICE).train(training)


def compare(layer, x, dy):
    """Results, gradients and state by kernels and by reference; ours."""
    assert passes_for(x).backend is BACKEND
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    ours = [*gradients(layer, x, dy), *(b.clone() for b in layer.buffers())]
    layer.load_state_dict(state)
    with reference_passes():
        theirs = [*gradients(layer, x, dy), *layer.buffers()]
    tolerance = TOLERANCES[x.dtype]
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(scale, 1))
    return ours


@pytest.mark.parametrize(
    ('kernel_size', 'training', 'layout', 'dtype'),
    [
        (1, True, 'contiguous', torch.float16),
        (1, False, 'channels_last', torch.float32),
        (3, True, 'contiguous', torch.float32),
        (3, True, 'channels_last', torch.bfloat16),
        (3, False, 'contiguous', torch.float32),
        (5, True, 'contiguous', torch.float32),
    ],
    ids=str,
)
def test_a_layer_equals_the_reference(kernel_size, training, layout, dtype):
    layer = layer_of(4, training, kernel_size=kernel_size)
    x = maps(3, 4, 6, 5, dtype=dtype, layout=layout)
    y, dx, *_ = compare(layer, x, maps(3, 4, 6, 5, seed=1, dtype=dtype, layout=layout))
    for tensor in (y, dx):
        assert tensor.is_contiguous(memory_format=FORMATS[layout])


def test_a_closed_gate():
    layer = layer_of(3)
    layer.condensation.fill_(0.1)
    before = layer.running_mean.clone()
    compare(layer, maps(2, 3, 5, 4, alike=False), maps(2, 3, 5, 4, seed=1))
    assert torch.equal(layer.running_mean, before)


@pytest.mark.parametrize('settings', [OFF, {'affine': False}], ids=str)
def test_other_stages(settings):
    compare(layer_of(3, **settings), maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1))


def test_parameters_of_half_precision():
    layer = layer_of(3, scaling=None).half()
    x = maps(2, 3, 4, 5, dtype=torch.float16)
    compare(layer, x, maps(2, 3, 4, 5, seed=1, dtype=torch.float16))


def test_tensors_that_are_not_dense():
    x = maps(2, 4, 5, 12)[:, :3, :, ::2]
    dy = torch.ones(2, 3, 1, 1, device=DEVICE).expand(2, 3, 5, 6)  # as a sum gives it
    compare(layer_of(3), x, dy)


def test_maps_in_pieces():
    layer = BGN(4, 6).to(DEVICE)
    compare(layer, maps(2, 4, 3, 5), maps(2, 4, 3, 5, seed=1))


def test_a_reduction_of_which_no_result_is_made():
    x = maps(2, 2, 3, 4).requires_grad_()
    mean, var = passes_for(x).moments()
    [ours] = torch.autograd.grad((mean * var).sum(), x)
    expected_var, expected_mean = torch.var_mean(x, (2, 3), correction=0)
    [theirs] = torch.autograd.grad((expected_mean * expected_var).sum(), x)
    torch.testing.assert_close(ours, theirs)
