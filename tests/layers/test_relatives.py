"""RBN, IEBN, BNET and InitBN: each in all that the family promises."""

import math

import pytest
import torch
from helpers.layers import images
from helpers.norm_tester import NormTester

from ubn_mmdet import BNET, IEBN, RBN, InitBN


class Relative(NormTester):
    """One that compiles as UBN does, of whose stages it is made."""

    @pytest.mark.slow
    def test_it_compiles_into_one_graph(self):
        super().test_it_compiles_into_one_graph()


class TestRBN(Relative):
    norm = RBN


class TestIEBN(Relative):
    norm = IEBN


class TestBNET(Relative):
    norm = BNET
    variants = {'k=3': {}, 'k=5': {'kernel_size': 5}}
    wrong = [
        ({'kernel_size': 1}, 'kernel_size.*positive odd integer >= 3, got 1'),
        ({'kernel_size': 4}, 'kernel_size.*positive odd integer >= 3, got 4'),
        ({'kernel_size': '3'}, "kernel_size.*positive odd integer >= 3, got '3'"),
        ({'initial_weight': math.inf}, 'initial_weight.*finite number, got inf'),
        ({'initial_spatial': 'ones'}, "'zeros' or 'kaiming' or 'fan_in', got 'ones'"),
    ]


class TestInitBN(Relative):
    norm = InitBN
    variants = {'0.1': {}, '0': {'initial_weight': 0}}
    fresh_weight = 0.1
    wrong = [({'initial_weight': 'small'}, "initial_weight.*number, got 'small'")]


def test_which_evaluate_as_batchnorm():
    """They alone may be folded into a convolution."""
    told = {norm: norm(4).evaluates_as_batchnorm for norm in (RBN, IEBN, BNET, InitBN)}
    assert told == {RBN: False, IEBN: False, BNET: False, InitBN: True}


@pytest.mark.parametrize('norm', [RBN, BNET])
def test_a_layer_in_float64_takes_float32(norm):
    x = images(2, 4, 3, 5)
    layer = norm(4, dtype=torch.float64)
    y = layer(x.float().requires_grad_())
    assert y.dtype == torch.float32
    y.sum().backward()
    torch.testing.assert_close(y.double(), layer(x), rtol=1e-5, atol=1e-5)
