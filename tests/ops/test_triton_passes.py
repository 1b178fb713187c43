"""Layers on the Triton kernels against layers on the reference."""

import contextvars
import warnings

import pytest
import torch
from helpers.layers import OFF, images, shake, trained
from helpers.passes import gradients

pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet.ops.dispatch import passes_for  # noqa: E402

from ubn_mmdet import (  # noqa: E402
    BGN,
    MABN,
    BatchRenorm,
    PowerNorm,
    choose_passes,
    convert_batchnorm,
    reference_passes,
)
from ubn_mmdet.layers import pipeline  # noqa: E402
from ubn_mmdet.ops.triton_passes import TritonPasses  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
KERNELS = pytest.mark.parametrize('kernel_size', [1, 3])
MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


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


@KERNELS
@MODES
@pytest.mark.parametrize(
    ('layout', 'dtype'),
    [
        ('contiguous', torch.float32),
        ('channels_last', torch.float32),
        ('contiguous', torch.float16),
        ('channels_last', torch.bfloat16),
    ],
    ids=str,
)
def test_a_layer_equals_the_reference(kernel_size, training, layout, dtype):
    layer = layer_of(4, training, kernel_size=kernel_size)
    x = maps(3, 4, 6, 5, dtype=dtype, layout=layout)
    y, dx, *_ = compare(layer, x, maps(3, 4, 6, 5, seed=1, dtype=dtype, layout=layout))
    for tensor in (y, dx):
        assert tensor.is_contiguous(memory_format=FORMATS[layout])


@KERNELS
@pytest.mark.parametrize('is_open', [True, False])
def test_both_sides_of_the_gate(kernel_size, is_open):
    layer = layer_of(3, kernel_size=kernel_size)
    layer.condensation.fill_(0.9 if is_open else 0.1)
    before = layer.running_mean.clone()
    x = maps(2, 3, 5, 4, alike=is_open)
    compare(layer, x, maps(2, 3, 5, 4, seed=1))
    assert (layer.running_mean != before).any() == is_open


@pytest.mark.parametrize(
    'settings',
    [OFF, {**OFF, 'kernel_size': 3}, {'affine': False}, {'kernel_size': 5}],
    ids=str,
)
@MODES
def test_other_stages(settings, training):
    layer = layer_of(3, training, **settings)
    compare(layer, maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1))


def test_parameters_of_half_precision():
    layer = layer_of(3, scaling=None).half()
    x = maps(2, 3, 4, 5, dtype=torch.float16)
    compare(layer, x, maps(2, 3, 4, 5, seed=1, dtype=torch.float16))


def test_tensors_that_are_not_dense():
    layer = layer_of(3)
    x = maps(2, 4, 5, 12)[:, :3, :, ::2]
    dy = torch.ones(2, 3, 1, 1, device=DEVICE).expand(2, 3, 5, 6)  # as a sum gives it
    compare(layer, x, dy)


@KERNELS
@MODES
def test_only_the_input_and_tensors_of_maps_are_saved(kernel_size, training):
    layer = layer_of(2, training, kernel_size=kernel_size)
    x = maps(2, 2, 16, 16).requires_grad_()
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    large = [t for t in saved.values() if t.untyped_storage().nbytes() >= x.nbytes]
    assert [t.data_ptr() for t in large] == [x.data_ptr()]


def test_an_input_without_gradient():
    layer = layer_of(2)
    x, dy = maps(2, 2, 3, 4), maps(2, 2, 3, 4, seed=1)
    expected = gradients(layer, x, dy)
    layer = layer_of(2)
    layer(x).backward(dy)
    for parameter, want in zip(layer.parameters(), expected[2:], strict=True):
        torch.testing.assert_close(parameter.grad, want)


def test_parameters_without_gradient():
    layer = layer_of(2, training=False, **OFF).requires_grad_(False)
    x = maps(2, 2, 3, 4).requires_grad_()
    layer(x).sum().backward()
    scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
    torch.testing.assert_close(x.grad, scale[:, None, None].expand_as(x))


def test_moments_of_which_no_result_is_made():
    x = maps(2, 2, 3, 4).requires_grad_()
    mean, var = TritonPasses(x).moments()
    [ours] = torch.autograd.grad((mean * var).sum(), x)
    expected_var, expected_mean = torch.var_mean(x, (2, 3), correction=0)
    [theirs] = torch.autograd.grad((expected_mean * expected_var).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_differentiating_twice_needs_the_reference():
    layer = layer_of(2)
    x = maps(2, 2, 3, 3).requires_grad_()
    with pytest.raises(RuntimeError, match='reference_passes'):
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(
    ('layout', 'dtype'),
    [('contiguous', torch.float32), ('channels_last', torch.float16)],
    ids=str,
)
@KERNELS
def test_stage_by_stage(kernel_size, training, layout, dtype, monkeypatch):
    monkeypatch.setattr(pipeline, 'steps_for', lambda x, kernel_size: None)
    layer = layer_of(3, training, kernel_size=kernel_size)
    x = maps(2, 3, 4, 5, dtype=dtype, layout=layout)
    assert type(passes_for(x, kernel_size)) is TritonPasses
    y, dx, *_ = compare(layer, x, maps(2, 3, 4, 5, seed=1, dtype=dtype, layout=layout))
    for tensor in (y, dx):
        assert tensor.is_contiguous(memory_format=FORMATS[layout])


@pytest.mark.parametrize(
    'make',
    [lambda c, **k: BGN(c, 2, **k), BatchRenorm, MABN, PowerNorm],
    ids=['BGN', 'BatchRenorm', 'MABN', 'PowerNorm'],
)
def test_layers_with_statistics_of_their_own(make):
    layer = shake(make(4, dtype=torch.float64)).float().to(DEVICE)
    compare(layer, maps(2, 4, 4, 5), maps(2, 4, 4, 5, seed=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('layout', FORMATS)
@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@KERNELS
def test_a_gpu_takes_the_kernels_by_itself(kernel_size, dtype, layout):
    x = torch.randn(2, 64, 50, 84, device='cuda', dtype=dtype)
    x = x.contiguous(memory_format=FORMATS[layout])
    layer, dy = layer_of(64, kernel_size=kernel_size), torch.randn_like(x)
    # In a context of its own: no choice is made there.
    contextvars.Context().run(compare, layer, x, dy)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = contextvars.Context().run(passes_for, x, kernel_size)
    assert type(found) is TritonPasses


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_autocast_and_a_step_of_a_network():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    ).cuda()
    network = convert_batchnorm(network)
    with torch.autocast('cuda'):
        network(maps(2, 3, 20, 20)).square().mean().backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
