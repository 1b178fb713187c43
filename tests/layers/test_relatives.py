"""RBN, IEBN, BNET and InitBN: each in all that the family promises."""

import math

import pytest
import torch
from helpers import relatives
from helpers.layers import images
from helpers.norm_tester import NormTester

from ubn_mmdet import BNET, IEBN, RBN, InitBN


def settings_of(layer):
    return {
        'training': layer.training,
        'eps': layer.eps,
        'momentum': layer.momentum,
    }


class TestRBN(NormTester):
    norm = RBN

    def define(self, layer, xs, state):
        return relatives.rbn(xs, state, **settings_of(layer))


class TestIEBN(NormTester):
    norm = IEBN

    def define(self, layer, xs, state):
        return relatives.iebn(xs, state, **settings_of(layer))


class TestBNET(NormTester):
    norm = BNET
    variants = {'k=3': {}, 'k=5': {'kernel_size': 5}}
    wrong = [
        ({'kernel_size': 1}, 'kernel_size.*positive odd integer >= 3, got 1'),
        ({'kernel_size': 4}, 'kernel_size.*positive odd integer >= 3, got 4'),
        ({'kernel_size': '3'}, "kernel_size.*positive odd integer >= 3, got '3'"),
        ({'initial_weight': math.inf}, 'initial_weight.*finite number, got inf'),
        ({'initial_spatial': 'ones'}, "'zeros' or 'kaiming', got 'ones'"),
    ]

    def define(self, layer, xs, state):
        return relatives.bnet(xs, state, **settings_of(layer))


class TestInitBN(NormTester):
    norm = InitBN
    compiles_since = (
        '2.6'  # PyTorch 2.4 breaks the graph at the weight before a forward
    )
    variants = {'0.1': {}, '0': {'initial_weight': 0}}
    fresh_weight = 0.1
    wrong = [({'initial_weight': 'small'}, "initial_weight.*number, got 'small'")]

    def define(self, layer, xs, state):
        return relatives.batchnorm(xs, state, **settings_of(layer))


@pytest.mark.parametrize('norm', [RBN, IEBN, BNET, InitBN])
def test_an_unknown_keyword_is_named_with_those_that_there_are(norm):
    with pytest.raises(TypeError, match=f"^{norm.__name__} has no argument 'moment'"):
        norm(4, moment=0.1)
    with pytest.raises(TypeError, match='it has num_features, .*eps, .*dtype$'):
        norm(4, moment=0.1)


def test_bnet_starts_as_it_is_told():
    torch.manual_seed(0)
    layer = BNET(512, initial_weight=0, initial_spatial='kaiming')
    assert not layer.weight.any()
    want = 1 / (1 + math.exp(-1)) * math.sqrt(2 / (9 * 512))
    assert abs(layer.spatial_weight.std() / want - 1) < 0.05


def test_which_evaluate_as_batchnorm():
    """They alone may be folded into a convolution."""
    told = {norm: norm(4).evaluates_as_batchnorm for norm in (RBN, IEBN, BNET, InitBN)}
    assert told == {RBN: False, IEBN: False, BNET: False, InitBN: True}


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('norm', [RBN, IEBN, BNET, InitBN])
def test_a_layer_in_float64_takes_float32(norm, affine):
    x = images(2, 4, 3, 5)
    layer = norm(4, affine=affine, dtype=torch.float64)
    y = layer(x.float().requires_grad_())
    assert y.dtype == torch.float32
    y.sum().backward()
    torch.testing.assert_close(y.double(), layer(x), rtol=1e-5, atol=1e-5)
