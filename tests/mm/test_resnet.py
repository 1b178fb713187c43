"""Every set of stages in the toolbox's own ResNet: it trains, and its cost is counted."""

import pytest
import torch
from helpers.layers import OFF, STAGES
from mmdet.models import ResNet
from mmengine.analysis import FlopAnalyzer

from ubn_mmdet import UBN


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_it_trains(stages):
    torch.manual_seed(0)
    net = ResNet(
        50,
        num_stages=1,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        base_channels=8,
        stem_channels=8,
        norm_cfg={'type': 'UBN', **stages},
        norm_eval=False,
        frozen_stages=-1,
        zero_init_residual=False,
    )
    net.init_weights()
    net.to(memory_format=torch.channels_last)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(3):
        [y] = net(x)
        loss = y.square().mean() + y.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name


def flops(norm_cfg):
    one = {'num_stages': 1, 'strides': (1,), 'dilations': (1,), 'out_indices': (0,)}
    net = ResNet(50, norm_cfg=norm_cfg, **one)
    net.eval()
    counter = FlopAnalyzer(net, torch.zeros(1, 3, 64, 64))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counter.by_operator()


def test_the_operations_of_norms_are_counted():
    plain = flops({'type': 'BN'})
    maps = 64 * 32**2  # elements behind each norm of the stem, at 64 pixels
    maps += 16**2 * (3 * (64 + 64 + 256) + 256)  # and of a stage: blocks, downsample
    assert plain['batch_norm'] == 2 * maps and 'norm' not in plain
    # Like BatchNorm, a scale and a shift; the mean of each map; the bias of a kernel.
    for norm, kernel, more in [
        (OFF, 0, 0),
        ({'kernel_size': 1}, 0, 1),
        ({}, 9, 2),
        ({'centering': False, 'scaling': None}, 9, 1),
    ]:
        counted = flops({'type': 'UBN', **norm})
        assert counted['conv'] == plain['conv'] + kernel * maps, norm
        assert counted['norm'] == (2 + more) * maps, norm


def test_the_operations_of_other_modules_are_counted_as_ever():
    class Sums(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return 2 * self.norm(x) + x.mean()

    x = torch.zeros(2, 3, 4, 5)
    counts = []
    for norm in (torch.nn.BatchNorm2d(3), UBN(3, **OFF)):
        counter = FlopAnalyzer(Sums(norm).eval(), x)
        counts.append(counter.unsupported_ops_warnings(False).total())
    assert counts == [2 * x.numel()] * 2
    assert FlopAnalyzer(UBN(3, **OFF).eval(), x).by_operator()['norm'] == 2 * x.numel()
