"""UBN trains as its authors' layer does: 20 steps of SGD, both forms in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.authors import GATE, AuthorsUBN
from helpers.layers import images
from helpers.optim import groups_of
from mmengine.optim import build_optim_wrapper
from torch import nn

from ubn_mmdet import BNET, UBN

SGD = {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 0.01}


def net(norm):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, dtype=torch.float64),
        norm,
        nn.ReLU(),
        nn.Conv2d(4, 2, 3, dtype=torch.float64),
    )


def paper() -> UBN:
    return UBN(4, initial_weight=0, initial_spatial='kaiming', dtype=torch.float64)


def trained(model, optimizer):
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 3, 9, 9, generator=generator, dtype=torch.float64) + 1
        target = torch.randn(4, 2, 5, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        F.mse_loss(model(x), target, reduction='sum').backward()
        optimizer.step()
    return model


def wrapper(model, paramwise_cfg=None, **optimizer):
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'constructor': 'UBNOptimWrapperConstructor',
            'optimizer': SGD | {'lr': 1e-3} | optimizer,
            'paramwise_cfg': paramwise_cfg or {},
        },
    )


def test_twenty_steps_are_the_authors():
    torch.manual_seed(0)
    ours = paper()
    x = images(2, 3, 9, 9)
    theirs = net(AuthorsUBN.of(ours))
    settings = {k: v for k, v in SGD.items() if k != 'type'} | {'lr': 1e-3}
    expected = trained(theirs, torch.optim.SGD(theirs.parameters(), **settings))
    model = net(ours)
    before = model(x).detach()
    trained(model, wrapper(model).optimizer)
    assert (model(x) - before).abs().max() > 0.1  # twenty steps have done something
    torch.testing.assert_close(model(x), expected(x), rtol=1e-10, atol=1e-10)


def test_plain_sgd_moves_the_kernel_further_than_the_authors():
    torch.manual_seed(0)
    ours = paper()
    theirs = AuthorsUBN.of(ours)
    x = images(2, 4, 9, 9)
    before = ours.spatial_weight.detach().clone(), ours.weight.detach().clone()
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
        torch.optim.SGD(layer.parameters(), lr=1e-4).step()
    kernel = theirs.bnconv.weight.detach().squeeze(1) * GATE
    centre = ours.weight - before[1], kernel[:, 1, 1] - before[1]
    torch.testing.assert_close(centre[0] / centre[1], torch.ones(4).double() / GATE**2)
    off = (ours.spatial_weight - before[0])[:, 0], kernel[:, 0] - before[0][:, 0]
    torch.testing.assert_close(off[0] / off[1], torch.ones(4, 3).double() / GATE**2)


def test_rates_and_decays_go_by_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.ubn = UBN(4, initial_spatial='kaiming')
            self.like_batchnorm = UBN(4)
            self.unscaled = UBN(4, scaling=None, initial_spatial='kaiming')
            self.bnet = BNET(4)

    model = Net()
    lr, decay, slow = 1e-3, 0.01, 1e-3 * GATE**2
    groups = groups_of(model, wrapper(model, {'norm_decay_mult': 0.0}))
    for name, found in groups.items():
        is_kernel = name.endswith('spatial_weight')
        has_decay = is_kernel or name.startswith('conv')
        expected = lr, decay if has_decay else 0
        if name in ('ubn.weight', 'ubn.bias', 'ubn.spatial_weight'):
            expected = slow, expected[1] / GATE**2
        assert found == pytest.approx(expected), name
    everything = groups_of(model, wrapper(model))
    assert everything['ubn.scaling_bias'] == (lr, decay)
    assert everything['ubn.bias'] == pytest.approx((slow, decay / GATE**2))
    keys = {'custom_keys': {'bnet': {'lr_mult': 2.0, 'decay_mult': 0.5}}}
    custom = groups_of(model, wrapper(model, keys))
    assert custom['bnet.spatial_weight'] == pytest.approx((2 * lr, decay / 2))


def test_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="authors' SGD, got 'RMSprop'"):
        wrapper(nn.Sequential(paper()), type='RMSprop')


@pytest.mark.parametrize('kind', ['SGD', torch.optim.SGD, 'torch.optim.SGD'])
def test_sgd_may_have_any_of_its_names(kind):
    model = net(paper())
    groups = groups_of(model, wrapper(model, type=kind))
    assert groups['1.weight'][0] == pytest.approx(1e-3 * GATE**2)
