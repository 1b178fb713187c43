"""A whole layer in one function: when it runs, and that it is what the stages are."""

import copy

import pytest
import torch
from helpers.layers import OFF, STAGES, images, shake, trained
from helpers.one_process import CountedCollectives
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from ubn_mmdet import BNET, IEBN, MABN, RBN, UBN, reference_passes
from ubn_mmdet.layers.pipeline import PipelineNorm, Stages
from ubn_mmdet.layers.stages import ChannelAffine, NormalizedScaling
from ubn_mmdet.ops import constants


class Halved(NormalizedScaling):
    def __call__(self, layer, pooled, raw):
        return super().__call__(layer, pooled, raw) / 2


class HalvedBN(PipelineNorm, _BatchNorm):
    def __init__(self, num_features, **common):
        super().__init__(num_features, Stages(scaling=Halved()), **common)


def function(layer, x):
    """The name of the function that wrote the output."""
    return type(layer(x.requires_grad_()).grad_fn).__name__


@pytest.mark.parametrize('training', [True, False])
def test_which_layers_are_one_function(training):
    x = images(3, 4, 6, 5)
    for norm in (UBN, RBN, BNET):
        layer = shake(norm(4, dtype=torch.float64)).train(training)
        assert '_ClosedForm' in function(layer, x)
        with reference_passes():
            assert '_ClosedForm' not in function(layer, x)
    for norm in (IEBN, MABN, HalvedBN):
        layer = shake(norm(4, dtype=torch.float64)).train(training)
        assert '_ClosedForm' not in function(layer, x)


def test_a_stage_that_derives_from_a_known_one_is_called():
    layer = HalvedBN(4, dtype=torch.float64)
    plain = nn.BatchNorm2d(4, dtype=torch.float64)
    x = images(3, 4, 6, 5)
    torch.testing.assert_close(layer(x), plain(x) / 2)


def step(layer, x, upstream):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], upstream)]


@pytest.mark.parametrize('samples', [1, 2, 6, 17])
@pytest.mark.parametrize('is_open', [True, False])
@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_it_is_what_the_stages_are(stages, is_open, samples):
    layer = trained(4, **stages)
    if layer.condensation is not None:
        layer.condensation.fill_(1.0 if is_open else -1.0)
    again = copy.deepcopy(layer)
    x = images(samples, 4, 5, 6, alike=False)
    upstream = images(samples, 4, 5, 6, seed=1)
    ours = step(layer, x, upstream)
    with reference_passes():
        theirs = step(again, x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(layer.state_dict(), again.state_dict())


def test_parameters_of_half_precision():
    layer = trained(4).half()
    again = copy.deepcopy(layer)
    x = images(3, 4, 5, 6).half()
    upstream = images(3, 4, 5, 6, seed=1).half()
    ours = step(layer, x, upstream)
    with reference_passes():
        theirs = step(again, x, upstream)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == torch.float16
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize('frozen', ['input', 'parameters'])
def test_gradients_that_nobody_wants(frozen):
    layer = trained(4)
    x, upstream = images(3, 4, 5, 6), images(3, 4, 5, 6, seed=1)
    _, of_x, *of_parameters = step(copy.deepcopy(layer), x, upstream)
    if frozen == 'parameters':
        layer.requires_grad_(False)
        x.requires_grad_()
    layer(x).backward(upstream)
    if frozen == 'parameters':
        torch.testing.assert_close(x.grad, of_x)
    else:
        for parameter, want in zip(layer.parameters(), of_parameters, strict=True):
            torch.testing.assert_close(parameter.grad, want)


def collectives(task):
    """One rank's collectives in a step; the batch needs no gradient."""
    layer, x = task
    with CountedCollectives() as counted:
        layer(x).sum().backward()
    return counted.names


@pytest.mark.parametrize('centering', [True, False])
def test_a_rank_without_elements_takes_part_as_often(centering, two_ranks):
    layer = trained(4, **OFF | {'centering': centering})
    found = two_ranks.run(
        collectives, [(layer, images(0, 4, 5, 6)), (layer, images(2, 4, 5, 6))]
    )
    assert found == [['all_reduce'] * (1 + centering)] * 2


def test_a_first_step_without_gradients_leaves_no_trace():
    constants._kept.cache_clear()
    layer = UBN(4)
    with torch.inference_mode():
        layer(torch.randn(2, 4, 5, 5))
        layer.eval()(torch.randn(2, 4, 5, 5))
    layer = UBN(4)
    layer(torch.randn(2, 4, 5, 5).requires_grad_()).sum().backward()


def test_tensors_without_data_leave_no_trace():
    constants._kept.cache_clear()
    with FakeTensorMode():
        assert UBN(4)(torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5)
    y = UBN(4)(torch.randn(2, 4, 5, 5))
    assert type(y) is torch.Tensor and y.isfinite().all()


def test_without_a_kernel_stages_are_batchnorm_bit_for_bit_in_evaluation():
    layer = trained(4, **OFF).float().eval()
    norm = nn.BatchNorm2d(4).eval()
    norm.load_state_dict(layer.state_dict())
    x = images(3, 4, 5, 6).float()
    assert torch.equal(layer(x), norm(x))


def test_the_affine_stage_is_known_by_its_class():
    assert Stages().have_closed_form
    assert not Stages(affine=type('Own', (ChannelAffine,), {})()).have_closed_form
