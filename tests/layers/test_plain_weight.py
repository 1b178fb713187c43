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


def test_prune():
    layer = trained(4)
    expected = copy.deepcopy(layer)
    smallest = layer.weight.abs().argsort()[:2]
    with torch.no_grad():
        expected.weight[smallest] = 0
    prune.l1_unstructured(layer, 'weight', amount=2)
    x = images(2, 4, 3, 3)
    y = layer(x)
    torch.testing.assert_close(y, expected(x))
    y.square().sum().backward()
    is_learnt = layer.weight_orig.grad != 0
    assert is_learnt.sum() == 2 and not is_learnt[smallest].any()


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
    with fwad.dual_level(), pytest.raises(RuntimeError, match='jvp'):
        layer(fwad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize('norm', [UBN, RBN, MABN])
def test_a_symbolic_trace_has_the_layer_as_a_leaf(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm(4), nn.ReLU())).eval()
    traced = fx.symbolic_trace(model)
    calls = {node.target for node in traced.graph.nodes if node.op == 'call_module'}
    assert '1.0' in calls and type(traced.get_submodule('1.0')) is norm
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(traced(x), model(x))
