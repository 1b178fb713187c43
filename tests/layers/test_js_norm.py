"""JSNorm: what the family promises, and its shrinkage."""

import pytest
import torch
from helpers.layers import images
from helpers.norm_tester import NormTester, assert_same_step
from torch import nn

from ubn_mmdet import JSNorm
from ubn_mmdet.layers.js_norm import james_stein


class TestJSNorm(NormTester):
    norm = JSNorm

    def is_batchnorm(self, settings):
        return False


@pytest.mark.parametrize('channels', [1, 2])
def test_one_or_two_channels_are_batchnorm(channels):
    layer = JSNorm(channels, dtype=torch.float64)
    norm = nn.BatchNorm2d(channels, dtype=torch.float64)
    for seed in range(2):
        assert_same_step(layer, norm, images(3, channels, 5, 4, seed=seed))


def test_equal_values_are_not_shrunk_and_one_alone_almost_wholly():
    ones = torch.ones(8)
    assert torch.equal(james_stein(3 * ones), 3 * ones)
    alone = torch.zeros(8).index_fill_(0, torch.tensor(2), 1.0)
    # var_c is 7/64, |values|^2 is 1.
    torch.testing.assert_close(james_stein(alone), (1 - 6 * 7 / 64) * alone)


@pytest.mark.parametrize('scale', [1e-30, 1e-4, 1.0, 1e30])
def test_the_shrinkage_is_that_of_any_multiple(scale):
    values = torch.tensor([1.0, -2.0, 3.0, 0.5])
    shrunk = james_stein(scale * values) / scale
    torch.testing.assert_close(shrunk, james_stein(values))


def test_zeros_stay_zeros_and_have_a_gradient():
    values = torch.zeros(5, requires_grad=True)
    james_stein(values).sum().backward()
    torch.testing.assert_close(values.grad, torch.ones(5))


def test_evaluation_and_checkpoints_are_batchnorms():
    assert JSNorm(2).state_dict().keys() == nn.BatchNorm2d(2).state_dict().keys()
    assert JSNorm(2).evaluates_as_batchnorm
