"""Every member of the family where the toolbox treats norm layers specially."""

import copy

import mmdet.registry
import mmengine.registry
import pytest
import torch
from helpers.layers import images, shake
from mmcv.cnn import ConvModule, build_norm_layer, fuse_conv_bn
from mmdet.models import ResNet
from mmengine.model import (
    ExponentialMovingAverage,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ubn_mmdet.layers import BGN, FAMILY, L2BN, MABN, MBN, InitBN, JSNorm, PowerNorm
from ubn_mmdet.layers.replacers import UBNReplacedError
from ubn_mmdet.mm.members import asks_for_ours

GROUPS = 8
SETTINGS = {BGN: {'num_groups': GROUPS}}


def members(*left_out: type[nn.Module]) -> pytest.MarkDecorator:
    norms = [norm for norm in FAMILY if norm not in left_out]
    return pytest.mark.parametrize('norm', norms, ids=lambda norm: norm.__name__)


MEMBERS = members()
# tests/layers/test_bgn.py has more of BGN. L2BN loads these weights, and scales samples.
TAKE_BATCHNORM = members(BGN, L2BN)
START_AS_BATCHNORM = members(BGN, InitBN, JSNorm, L2BN, MABN, MBN, PowerNorm)


def config(norm: type[nn.Module] | str, **more) -> dict:
    name = norm if isinstance(norm, str) else norm.__name__
    return {'type': name, **SETTINGS.get(norm, {}), **more}


def resnet(norm: type[nn.Module] | str, requires_grad=True, **settings) -> ResNet:
    torch.manual_seed(0)
    settings = {'norm_eval': False, 'zero_init_residual': False} | settings
    norm_cfg = config(norm, requires_grad=requires_grad)
    model = ResNet(18, norm_cfg=norm_cfg, **settings)
    model.init_weights()
    return model


def layers_of(model: nn.Module, norm: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if type(m) is norm}


def start_of(norm: type[nn.Module]) -> float:
    return 0.1 if norm is InitBN else 1.0


@MEMBERS
def test_it_is_found_under_every_scope(norm):
    for registry in (mmengine.registry.MODELS, mmdet.registry.MODELS):
        assert registry.get(norm.__name__) is norm
    assert asks_for_ours({'backbone': {'norm_cfg': {'type': norm.__name__}}})


@MEMBERS
def test_build_norm_layer(norm):
    name, layer = build_norm_layer(config(norm, requires_grad=False), 8, 2)
    assert name == 'bn2' and type(layer) is norm and layer.eps == 1e-5
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    _, layer = build_norm_layer(config(norm), 8)
    assert all(parameter.requires_grad for parameter in layer.parameters())


@MEMBERS
def test_a_conv_module_leaves_the_start_as_it_is(norm):
    module = ConvModule(3, 8, 3, norm_cfg=config(norm))
    module.init_weights()
    torch.manual_seed(0)
    fresh = norm(8, **SETTINGS.get(norm, {})).state_dict()
    torch.testing.assert_close(module.bn.state_dict(), fresh, rtol=0, atol=0)


@MEMBERS
@pytest.mark.parametrize('zero_init_residual', [False, True])
def test_a_resnet_starts_as_it_was_told(norm, zero_init_residual):
    model = resnet(norm, zero_init_residual=zero_init_residual)
    layers = layers_of(model, norm)
    assert len(layers) == 20
    for name, layer in layers.items():
        silent = name.startswith('layer') and name.endswith('bn2')
        want = 0 if zero_init_residual and silent else start_of(norm)
        assert (layer.weight == want).all(), name
        fresh = norm(layer.num_features, **SETTINGS.get(norm, {})).state_dict()
        state = layer.state_dict()
        del fresh['weight'], state['weight']
        torch.testing.assert_close(state, fresh, rtol=0, atol=0)


@START_AS_BATCHNORM
def test_a_fresh_resnet_is_the_batchnorm_resnet(norm):
    ours, theirs = (resnet(n).double() for n in (norm, 'BN'))
    for layer in layers_of(ours, norm).values():
        layer.momentum = theirs.bn1.momentum  # BatchRenorm has its own
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():  # the same names, the same draws
        assert torch.equal(state[name], value), name
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for training in (True, False):
        ours.train(training), theirs.train(training)
        for y, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(y, expected)


@TAKE_BATCHNORM
def test_batchnorm_weights_load_into_a_detector(norm, capfd):
    theirs, ours = resnet('BN').double(), resnet(norm).double()
    for layer in layers_of(theirs, nn.BatchNorm2d).values():
        shake(layer)
    load_state_dict(ours, theirs.state_dict(), strict=True)
    assert 'missing' not in ''.join(capfd.readouterr())
    ours.eval(), theirs.eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[-1], theirs(x)[-1])


@MEMBERS
def test_a_resnet_trains(norm):
    model = resnet(norm)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        # Maps of 2 x 2 in the end: JSNorm has no bound for two values of a channel.
        loss = model(torch.randn(2, 3, 64, 64))[-1].square().mean()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    state = model.state_dict()
    for name, layer in layers_of(model, norm).items():
        assert layer.num_batches_tracked == 2
        assert not torch.equal(layer.running_var, before[f'{name}.running_var'])
    # The last block's kernel, gate and so on have learnt.
    for name, _ in model.layer4[1].bn2.named_parameters():
        name = f'layer4.1.bn2.{name}'
        assert not torch.equal(state[name], before[name]), name


@MEMBERS
def test_norm_eval_stops_the_state_but_not_learning(norm):
    model = resnet(norm, norm_eval=True)
    model.train()
    layers = layers_of(model, norm)
    assert not any(layer.training for layer in layers.values())
    before = copy.deepcopy(dict(model.named_buffers()))
    model(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    for layer in layers.values():
        assert all(parameter.grad is not None for parameter in layer.parameters())


@MEMBERS
def test_frozen_stages_freeze_every_parameter_and_the_state(norm):
    model = resnet(norm, frozen_stages=1)
    model.train()
    for name, layer in layers_of(model, norm).items():
        frozen = name == 'bn1' or name.startswith('layer1')
        assert layer.training != frozen, name
        assert all(p.requires_grad != frozen for p in layer.parameters()), name


@MEMBERS
def test_requires_grad_false_freezes_parameters_alone(norm):
    model = resnet(norm, requires_grad=False)
    model.train()
    var = model.bn1.running_var.clone()
    model(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    for layer in layers_of(model, norm).values():
        assert layer.training
        assert all(p.grad is None for p in layer.parameters())
    assert not torch.equal(model.bn1.running_var, var)


@MEMBERS
def test_norm_decay_mult_covers_every_parameter(norm):
    model = resnet(norm)
    wrapper = build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'SGD', 'lr': 0.1, 'weight_decay': 0.01},
            'paramwise_cfg': {'norm_decay_mult': 0.0},
        },
    )
    layers = layers_of(model, norm).values()
    own = {id(p) for layer in layers for p in layer.parameters()}
    assert len(own) == 20 * len(list(model.bn1.parameters()))
    for group in wrapper.optimizer.param_groups:
        [parameter] = group['params']
        assert group['weight_decay'] == (0 if id(parameter) in own else 0.01)


STILL = {'running_mean'}  # of some members: it need not move


@MEMBERS
@pytest.mark.parametrize('update_buffers', [False, True])
def test_ema(norm, update_buffers):
    layer, momentum = (
        shake(norm(8, dtype=torch.float64, **SETTINGS.get(norm, {}))),
        0.25,
    )
    layer(images(2, 8, 5, 5))  # what it leaves on the layer is copied, too
    average = ExponentialMovingAverage(
        layer, momentum=momentum, update_buffers=update_buffers
    )
    average.update_parameters(layer)  # the first update copies
    first = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 1
    layer(images(2, 8, 5, 5, seed=1).requires_grad_()).square().sum().backward()
    last = layer.state_dict()
    average.update_parameters(layer)
    averaged = average.module.state_dict()
    assert averaged.keys() == last.keys()
    assert {name for name in last if torch.equal(first[name], last[name])} <= STILL
    for name in averaged:
        want = last[name]
        if want.dtype == torch.long:  # copied, or left at the first copy
            want = first[name] if update_buffers else want
        elif update_buffers or name in dict(layer.named_parameters()):
            want = first[name] + momentum * (want - first[name])
        torch.testing.assert_close(averaged[name], want)


@MEMBERS
def test_conversion_to_syncbn_and_reverting_leave_it_alone(norm):
    net = nn.Sequential(ConvModule(3, 8, 3, norm_cfg=config(norm)), nn.BatchNorm2d(8))
    layer = net[0].bn
    for convert in (convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm):
        net = convert(net)
        assert net[0].bn is layer and type(net[1]) is nn.SyncBatchNorm
    assert revert_sync_batchnorm(net)[0].bn is layer


@MEMBERS
def test_folding_is_refused_unless_it_is_right(norm):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8, **SETTINGS.get(norm, {}))).double()
    shake(net[1])
    net.eval()
    if not net[1].evaluates_as_batchnorm:
        with pytest.raises(UBNReplacedError, match=f'1 {norm.__name__} layer'):
            fuse_conv_bn(net)
        return
    x = images(2, 3, 8, 8)
    want = net(x)
    torch.testing.assert_close(fuse_conv_bn(net)(x), want)
