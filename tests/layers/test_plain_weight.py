"""What PyTorch does to modules and their parameters, it can do to these layers."""

import copy

import pytest
import torch
import torch.autograd.forward_ad as fwad
import torch.nn.utils.parametrize as parametrize
from helpers.layers import images, trained
from torch import fx, nn
from torch.nn.utils import prune

from ubn_mmdet import BNET, MABN, RBN, UBN, InitBN, reference_passes


def test_weight_is_an_ordinary_parameter():
    layer = InitBN(4)
    assert type(layer.weight) is nn.Parameter
    new = nn.Parameter(torch.ones(4))
    layer.weight = new
    assert layer.weight is new
    copy.deepcopy(layer).weight.data.fill_(2)
    nn.init.ones_(copy.deepcopy(layer).weight)


def test_prune():
    layer = UBN(4, initial_weight=0.5)
    prune.l1_unstructured(layer, 'weight', amount=2)
    layer(torch.randn(2, 4, 3, 3)).sum().backward()
    assert (layer.weight == 0).sum() == 2


def test_parametrize():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = trained(4)
    expected = copy.deepcopy(layer)
    with torch.no_grad():
        expected.weight.mul_(2)
    parametrize.register_parametrization(layer, 'weight', Double())
    x = images(2, 4, 3, 3)
    torch.testing.assert_close(layer(x), expected(x))


def test_replicas_of_data_parallel():
    """As ``nn.parallel.replicate`` builds them, which needs devices for more."""
    layer = trained(4)
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(replica, name, parameter.clone())  # a tensor with a graph
    for name, buffer in layer.named_buffers():
        setattr(replica, name, buffer.clone())
    x = images(2, 4, 3, 3)
    replica(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize('kind', [UBN, RBN, BNET, InitBN])
@pytest.mark.parametrize('training', [True, False])
def test_forward_mode_differentiation(kind, training):
    layer = kind(2).double().train(training)
    x, v = images(2, 2, 3, 3), images(2, 2, 3, 3, seed=1)
    buffers = copy.deepcopy(dict(layer.named_buffers()))

    def forward(x):
        return torch.func.functional_call(layer, copy.deepcopy(buffers), (x,))

    with reference_passes():  # by two backwards
        _, want = torch.autograd.functional.jvp(forward, x, v)
    with fwad.dual_level():
        y = layer(fwad.make_dual(x, v))
        torch.testing.assert_close(fwad.unpack_dual(y).tangent, want)
        for buffer in layer.buffers():
            assert fwad.unpack_dual(buffer).tangent is None


def test_forward_mode_is_refused_where_backward_is_no_derivative():
    layer = MABN(2).double()
    x = images(2, 2, 3, 3)
    with (
        fwad.dual_level(),
        pytest.raises(
            RuntimeError, match='no forward-mode derivative of a norm layer whose'
        ),
    ):
        layer(fwad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize('norm', [UBN, RBN, MABN])
def test_a_symbolic_trace_has_the_layer_as_a_leaf(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm(4), nn.ReLU())).eval()
    traced = fx.symbolic_trace(model)
    calls = {node.target for node in traced.graph.nodes if node.op == 'call_module'}
    assert '1.0' in calls and type(traced.get_submodule('1.0')) is norm
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(traced(x), model(x))
