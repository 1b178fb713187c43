"""The optimizer-wrapper constructor of InitBN."""

import pytest
import torch
from helpers.optim import groups_of
from mmengine.optim import build_optim_wrapper
from torch import nn

from ubn_mmdet import UBN, InitBN


class Net(nn.Module):
    """Layers of each kind that the rules tell apart."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.init_bn = InitBN(4)
        self.ubn = UBN(4)
        self.frozen = InitBN(4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


def build(paramwise_cfg=None, net=None, **optimizer):
    net = net or Net()
    wrapper = build_optim_wrapper(
        net,
        {
            'type': 'OptimWrapper',
            'constructor': 'InitBNOptimWrapperConstructor',
            'optimizer': {'type': 'SGD', 'lr': 0.1, 'weight_decay': 0.01} | optimizer,
            **({} if paramwise_cfg is None else {'paramwise_cfg': paramwise_cfg}),
        },
    )
    return net, wrapper


def test_the_weight_of_init_bn_learns_slowly_and_norms_and_biases_do_not_decay():
    groups = groups_of(*build())
    decaying = {'conv.weight', 'head.weight'}
    trained = {name for name, _ in Net().named_parameters()} - {
        'frozen.weight',
        'frozen.bias',
    }
    assert groups == {
        name: (
            pytest.approx(0.001 if name == 'init_bn.weight' else 0.1),
            0.01 if name in decaying else 0,
        )
        for name in trained
    }


def test_what_the_config_says_holds():
    paramwise_cfg = {'norm_decay_mult': 0.5}
    groups = groups_of(*build(paramwise_cfg))
    assert groups['init_bn.weight'] == (pytest.approx(0.001), 0.005)
    assert groups['conv.bias'] == (0.1, 0)
    assert paramwise_cfg == {'norm_decay_mult': 0.5}


def test_the_hundredth_comes_on_top_of_custom_keys():
    groups = groups_of(*build({'custom_keys': {'init_bn': {'lr_mult': 0.1}}}))
    assert groups['init_bn.weight'][0] == pytest.approx(0.1 * 0.1 * 0.01)
    assert groups['init_bn.bias'][0] == pytest.approx(0.1 * 0.1)


def test_levels_may_share_their_convolutions():
    net = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])
    net.append(net[1])
    wrapper = build_optim_wrapper(
        net,
        {
            'type': 'OptimWrapper',
            'constructor': 'UBNOptimWrapperConstructor',
            'optimizer': {'type': 'SGD', 'lr': 0.1, 'weight_decay': 0.01},
        },
    )
    assert len(wrapper.optimizer.param_groups) == 4


def test_a_step_moves_the_weight_by_a_hundredth():
    net, wrapper = build(weight_decay=0.0)
    before = net.init_bn.weight.detach().clone()
    (net.init_bn.weight.sum() + net.init_bn.bias.sum()).backward()
    wrapper.optimizer.step()
    torch.testing.assert_close(net.init_bn.weight, before - 0.001)
    torch.testing.assert_close(net.init_bn.bias, torch.full((4,), -0.1))


def test_a_shared_weight_is_slowed_down_once():
    net = nn.ModuleList([InitBN(4), InitBN(4)])
    net[1].weight = net[0].weight
    assert groups_of(*build(net=net))['0.weight'][0] == pytest.approx(0.001)


def test_the_rate_that_is_multiplied_must_be_stated():
    with pytest.raises(ValueError, match='multiplies lr: .*must state it'):
        build(lr=None)


def test_without_a_decay_nothing_can_be_kept_from_it():
    with pytest.raises(ValueError, match='base_wd should not be None'):
        build(weight_decay=None)
