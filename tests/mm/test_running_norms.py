"""Norms that train with running statistics, in the toolbox's ResNet, in every phase."""

import copy

import pytest
import torch
from mmdet.models import ResNet
from mmengine.registry import DefaultScope
from torch import nn

from ubn_mmdet import CentralizedConv2d

CENTRED = {'type': 'CentralizedConv2d'}
MEMBERS = {
    'BatchRenorm': ({'plain_steps': 1, 'r_steps': 4, 'd_steps': 3}, None),
    'MABN': ({'memory_size': 2, 'warmup_steps': 3, 'renorm_steps': 4}, CENTRED),
    'MABN, convolutions as they are': (
        {'memory_size': 2, 'warmup_steps': 3, 'renorm_steps': 4},
        None,
    ),
    'PowerNorm': ({'warmup_steps': 3}, None),
}


@pytest.fixture(params=MEMBERS)
def net(request):
    """A small ResNet whose norms go through all their phases within some steps."""
    settings, conv_cfg = MEMBERS[request.param]
    kind = request.param.partition(',')[0]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = ResNet(
            18,
            num_stages=1,
            strides=(1,),
            dilations=(1,),
            out_indices=(0,),
            base_channels=8,
            stem_channels=8,
            conv_cfg=conv_cfg,
            norm_cfg={'type': kind, **settings},
            norm_eval=False,
            frozen_stages=-1,
            with_cp=True,
            zero_init_residual=False,
        )
    net.init_weights()
    net.train()
    return net


def steps(net, count, first=0, autocast=False):
    """Losses of some training steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for seed in range(first, first + count):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 3, 32, 32, generator=generator)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            [y] = net(x)
        loss = y.float().square().mean() + y.float().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize('autocast', [False, True])
def test_it_trains(net, autocast):
    before = copy.deepcopy(net.state_dict())
    steps(net, 8, autocast=autocast)
    for name, tensor in net.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        stays = name.endswith('running_mean') and 'BatchRenorm' not in str(net)
        assert torch.equal(tensor, before[name]) == stays, name


def test_a_checkpoint_resumes_in_the_same_phase(net):
    again = copy.deepcopy(net)
    losses = steps(net, 8)
    assert steps(again, 5) == losses[:5]
    resumed = copy.deepcopy(again)
    for module in resumed.modules():
        if hasattr(module, 'reset_running_stats'):
            module.reset_running_stats()
    resumed.load_state_dict(again.state_dict(), strict=True)
    assert steps(resumed, 3, first=5) == losses[5:]


@pytest.mark.parametrize('net', ['MABN'], indirect=True)
def test_the_toolbox_builds_centred_convolutions(net):
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(isinstance(m, CentralizedConv2d) for m in convolutions)
    # The initialiser of convolutions has reached them.
    assert all(m.weight.std() > 0.05 for m in convolutions)
