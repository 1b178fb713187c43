"""L2BN: what the family promises, and the scale of samples."""

import pytest
import torch
from helpers.layers import images, shake
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import L2BN, padded_images
from ubn_mmdet.checkpoints.layouts import to_batchnorm
from ubn_mmdet.layers.pipeline import PipelineNorm, Stages
from ubn_mmdet.layers.stages.affine import Centering, L2Equalizing
from ubn_mmdet.layers.stages.statistics import GatedStatistics


class TestL2BN(NormTester):
    norm = L2BN

    def is_batchnorm(self, settings):
        return False


def trained(**settings):
    return shake(L2BN(4, dtype=torch.float64, **settings))


@pytest.mark.parametrize('training', [True, False])
def test_the_scale_of_a_sample_is_of_no_account(training):
    layer = trained().train(training)
    x = images(3, 4, 6, 5)
    scales = torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1, 1)
    y = layer(x)
    torch.testing.assert_close(layer(scales * x), y, rtol=1e-10, atol=1e-10)


def test_samples_of_equal_norm_are_batchnorms():
    x = images(3, 4, 6, 5)
    x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt()
    norm = nn.BatchNorm2d(4, dtype=torch.float64)
    torch.testing.assert_close(L2BN(4, dtype=torch.float64)(x), norm(x))


def test_a_sample_of_zeros_stays_one_and_has_no_gradient():
    layer = trained()
    x = images(3, 4, 6, 5)
    x[1] = 0
    y = layer(x.requires_grad_())
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert not x.grad[1].any() and x.grad[0].any()
    assert (y[1] == y[1, :, :1, :1]).all()


@pytest.mark.parametrize('training', [True, False])
def test_padded_pixels_have_no_part_in_the_norm(training):
    x = images(1, 4, 8, 8)
    x[..., 5:] = 7
    layer, cut = (trained().train(training) for _ in range(2))
    with padded_images([(8, 5)], (8, 8)):
        y = layer(x)
    want = cut(x[..., :5].contiguous())
    torch.testing.assert_close(y[..., :5], want)
    assert not y[..., 5:].any()
    torch.testing.assert_close(layer.running_var, cut.running_var)


def test_it_is_not_folded():
    layer = nn.Sequential(L2BN(4))
    assert not layer[0].evaluates_as_batchnorm
    with pytest.raises(ValueError, match='0: L2Equalizing does not evaluate as'):
        to_batchnorm(layer.state_dict(), layer[0].stages)


class Mixed(PipelineNorm, nn.modules.batchnorm._BatchNorm):
    """Equalizing beside centering and a gate, which look at the same samples."""

    def __init__(self, equalizing):
        stages = Stages(Centering(), GatedStatistics(), equalizing=equalizing)
        super().__init__(4, stages, dtype=torch.float64)


def test_the_gate_sees_the_input_and_centering_the_scaled_one():
    layer, norm = shake(Mixed(L2Equalizing())), shake(Mixed(None))
    x = images(3, 4, 6, 5)
    scaled = x / x.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(layer(x), norm(scaled))
    torch.testing.assert_close(layer.condensation, norm.condensation)
