"""The hand-written backward: its numbers, what it saves, what it refuses."""

import weakref

import pytest
import torch
from helpers.layers import OFF, images, trained
from helpers.passes import gradients

from ubn_mmdet import reference_passes
from ubn_mmdet.ops import fused, tensors
from ubn_mmdet.ops.fused import Coefficients, FusedPasses
from ubn_mmdet.ops.passes import ReferencePasses

BACKEND = pytest.mark.parametrize('kernel_size', [1, 3])
MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


@BACKEND
@MODES
@pytest.mark.parametrize(
    ('dtype', 'memory_format', 'tolerance'),
    [
        (torch.float32, torch.contiguous_format, 1e-4),
        (torch.float32, torch.channels_last, 1e-4),
        (torch.bfloat16, torch.contiguous_format, 0.05),
        (torch.float16, torch.channels_last, 0.01),
    ],
    ids=str,
)
def test_it_equals_the_reference(
    kernel_size, training, dtype, memory_format, tolerance
):
    layer = trained(4, kernel_size=kernel_size).float().train(training)
    x = images(3, 4, 6, 5).to(dtype, memory_format=memory_format)
    assert_equals_the_reference(layer, x, tolerance)


@BACKEND
@MODES
def test_so_does_what_runs_on_a_gpu(kernel_size, training, monkeypatch):
    """Broadcasting operations, in either memory format."""
    monkeypatch.setattr(fused, '_has_flat_maps', lambda x: False)
    layer = trained(4, kernel_size=kernel_size).float().train(training)
    assert_equals_the_reference(layer, images(3, 4, 6, 5).float(), 1e-4)


def assert_equals_the_reference(layer, x, tolerance):
    """Output, gradients, their dtypes and their memory format."""
    # The step moves the statistics: both start from the same.
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    memory_format = tensors.memory_format(x)
    upstream = images(*x.shape, seed=1).to(x.dtype, memory_format=memory_format)
    ours = gradients(layer, x, upstream)
    layer.load_state_dict(state)
    with reference_passes():
        theirs = gradients(layer, x, upstream)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(scale, 1))
    for tensor in ours[:2]:
        assert tensor.is_contiguous(memory_format=memory_format)


@BACKEND
@MODES
def test_only_the_input_and_tensors_of_maps_are_saved(kernel_size, training):
    layer = trained(4, kernel_size=kernel_size).float().train(training)
    x = images(3, 4, 32, 32).float().requires_grad_()
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    maps = [t for t in saved.values() if t.untyped_storage().nbytes() >= x.nbytes]
    assert [t.data_ptr() for t in maps] == [x.data_ptr()]
    rest = [t for t in saved.values() if t is not maps[0]]
    assert all(t.numel() <= max(3 * 4, 4 * kernel_size**2) for t in rest)


def test_gradients_that_are_not_contiguous():
    layer = trained(4).float()
    x = images(3, 4, 6, 5).float()
    upstream = torch.ones(3, 4, 1, 1).expand(3, 4, 6, 5)  # as a sum gives it
    expanded = gradients(layer.eval(), x, upstream)
    contiguous = gradients(layer, x, upstream.contiguous())
    torch.testing.assert_close(expanded, contiguous)


def test_large_means_keep_their_gradients():
    layer = trained(2, **OFF)
    x = 3000 + images(4, 2, 16, 16, alike=False)
    upstream = images(4, 2, 16, 16, seed=1)
    exact = gradients(layer, x, upstream)
    close = gradients(layer.float(), x.float(), upstream.float())
    torch.testing.assert_close(close[1].double(), exact[1], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(close[2].double(), exact[2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('reduction', ['mean', 'moments'])
def test_a_reduction_of_which_no_result_is_made(reduction):
    x = images(2, 2, 3, 4)
    results = []
    for kind in (FusedPasses, ReferencePasses):
        leaf = x.clone().requires_grad_()
        reduced = getattr(kind(leaf), reduction)()
        product = reduced if reduction == 'mean' else reduced[0] * reduced[1]
        results.append(torch.autograd.grad(product.square().sum(), leaf))
    torch.testing.assert_close(*results)


def test_a_second_reduction_or_apply_is_refused():
    passes = FusedPasses(images(2, 2, 3, 4))
    mean, var = passes.moments()
    with pytest.raises(RuntimeError, match='reduce once'):
        passes.mean()
    coefficients = Coefficients(mean, var, mean)
    passes.apply(coefficients)
    with pytest.raises(RuntimeError, match='apply once'):
        passes.apply(coefficients)


def test_parameters_without_gradient():
    layer = trained(2, **OFF).eval().requires_grad_(False)
    x = images(2, 2, 3, 4).requires_grad_()
    layer(x).sum().backward()
    scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
    torch.testing.assert_close(x.grad, scale[:, None, None].expand_as(x))


def test_differentiating_twice_needs_and_has_the_reference():
    layer = trained(2)
    x = images(2, 2, 3, 3).requires_grad_()

    def penalty():
        loss = layer(x).square().sum()
        [gradient] = torch.autograd.grad(loss, x, create_graph=True)
        return gradient.square().sum()

    with pytest.raises(RuntimeError, match='reference_passes'):
        penalty()  # although the incoming gradient, of a sum, needs none
    with reference_passes():
        penalty().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


def test_a_cotangent_that_needs_no_gradient_is_no_way_around():
    x = images(2, 2, 3, 3).requires_grad_()
    y = trained(2)(x)
    with pytest.raises(RuntimeError, match='reference_passes'):
        torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)


@BACKEND
@MODES
@pytest.mark.parametrize('backward', [True, False])
def test_a_graph_that_is_dropped_is_freed(kernel_size, training, backward):
    class Packed:
        def __init__(self, tensor):
            self.tensor = tensor

    packed = []

    def pack(tensor):
        held = Packed(tensor.detach())  # its graph would hold the pack itself
        packed.append(weakref.ref(held))
        return held

    layer = trained(4, kernel_size=kernel_size).train(training)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        y = layer(images(2, 4, 5, 5).requires_grad_())
    if backward:
        y.sum().backward()
    assert packed
    del y
    assert not any(reference() for reference in packed)


@pytest.mark.parametrize('shape', [(3, 1, 4, 4), (2, 2, 1, 1)], ids=str)
def test_coefficients_that_share_one_number(shape):
    """Expanded, they have no memory for BatchNorm's kernels to go on reading."""
    x, upstream = images(*shape), images(*shape, seed=1)
    one = torch.full((1,), 2.0, dtype=torch.float64)
    results = []
    for kind in (FusedPasses, ReferencePasses):
        leaf = x.clone().requires_grad_()
        # Of memory where the next numbers are not the same.
        scale, shift = (torch.stack([v, v + 1e9])[:1, 0] for v in (one, one + 1))
        scale, shift = (v.expand(shape[1]).requires_grad_() for v in (scale, shift))
        y = kind(leaf).apply(Coefficients(shift, scale, shift))
        results.append([y, *torch.autograd.grad(y, [leaf, scale, shift], upstream)])
    torch.testing.assert_close(*results)
