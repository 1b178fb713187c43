"""What would replace UBN without a word is refused; what must leave it alone, does."""

import mmengine._strategy.distributed as strategy_module
import pytest
import torch
from helpers.commands import ROOT
from helpers.layers import OFF
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmdet.apis import DetInferencer, init_detector
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.model.efficient_conv_bn_eval import (
    efficient_conv_bn_eval_graph_transform,
    turn_on_efficient_conv_bn_eval,
)
from mmengine.runner import runner as runner_module
from torch import nn
from torch.ao.quantization import fuser_method_mappings
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ubn_mmdet import UBN, hide_padding
from ubn_mmdet.layers.replacers import UBNReplacedError

DEMO = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'


def net_of(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 4, 3), norm(4))
    for layer in (net[1], net[3]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return nn.Sequential(net).eval()


def plain(channels):
    """A layer of ours that evaluates as BatchNorm."""
    return UBN(channels, **OFF)


def fused(function):
    """Replaces the first convolution and norm by what ``function`` makes of them."""

    def replace(model):
        conv, norm, *rest = model[0]
        return nn.Sequential(function(conv, norm), *rest)

    return replace


CONVERSIONS = {
    'torch': nn.SyncBatchNorm.convert_sync_batchnorm,
    'mmengine': convert_sync_batchnorm,
    'mmengine for mmcv': lambda m: convert_sync_batchnorm(m, 'mmcv'),
    'runner': lambda m: runner_module.convert_sync_batchnorm(m, 'torch'),
    'strategy': lambda m: strategy_module.convert_sync_batchnorm(m, 'torch'),
}
REPLACERS = {
    'fuse': fuse_conv_bn,
    'efficient': lambda m: turn_on_efficient_conv_bn_eval(m, ['0']),
    'fusion': fused(fuse_conv_bn_eval),
    'by keyword': fused(lambda conv, bn: fuse_conv_bn_eval(conv=conv, bn=bn)),
    'nn.utils': fused(lambda *pair: nn.utils.fuse_conv_bn_eval(*pair)),
    'quantization': fused(
        lambda *pair: fuser_method_mappings.fuse_conv_bn(False, *pair)
    ),
}


@pytest.mark.parametrize('replace', REPLACERS.values(), ids=REPLACERS)
def test_replacers_refuse_ubn_and_leave_it_whole(replace):
    net = net_of(UBN)
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    with pytest.raises(UBNReplacedError, match=r'[12] UBN layer\(s\): it '):
        replace(net)
    assert [type(m) for m in net[0]] == [nn.Conv2d, UBN] * 2
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


# MMCV's own SyncBatchNorm wants a process group.
@pytest.mark.parametrize(
    'name', sorted((CONVERSIONS.keys() | REPLACERS.keys()) - {'mmengine for mmcv'})
)
def test_replacers_still_serve_batchnorm(name):
    net = net_of(nn.BatchNorm2d)
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    replaced = (CONVERSIONS | REPLACERS)[name](net) or net  # one works in place
    torch.testing.assert_close(replaced.eval()(x), before, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_is_not_folded_with_ubn():
    linear = nn.Linear(3, 4).eval()
    fuse_linear_bn_eval(linear, nn.BatchNorm1d(4).eval())
    with pytest.raises(UBNReplacedError, match='fuse_linear_bn_eval met 1 UBN'):
        fuse_linear_bn_eval(linear, UBN(4).eval())


def test_an_efficient_conv_module_refuses_ubn():
    module = ConvModule(3, 4, 3, norm_cfg={'type': 'UBN'}, efficient_conv_bn_eval=True)
    module(torch.randn(2, 3, 8, 8))
    with pytest.raises(UBNReplacedError, match='efficient_conv_bn_eval'):
        module.eval()(torch.randn(2, 3, 8, 8))


def test_a_graph_with_ubn_is_not_transformed():
    graph = torch.fx.symbolic_trace(net_of(UBN))
    with pytest.raises(UBNReplacedError, match='graph_transform met 2 UBN'):
        efficient_conv_bn_eval_graph_transform(graph)


ALL = pytest.mark.parametrize(
    'name', ['fuse', 'efficient', 'fusion', 'nn.utils', 'quantization']
)


@ALL
def test_nothing_is_folded_where_padding_is_left_out(name):
    net = net_of(plain)
    hide_padding(net)
    with pytest.raises(UBNReplacedError, match='that leave padding out'):
        REPLACERS[name](net)


def test_nothing_is_folded_in_a_detector_with_padding_aware():
    net = net_of(plain)
    net.data_preprocessor = nn.Identity()
    net.data_preprocessor.announces_padding = True
    with pytest.raises(UBNReplacedError, match='that leave padding out'):
        fuse_conv_bn(net)


def test_an_activation_behind_a_layer_is_not_lost():
    layer = plain(4)
    layer.applied_after = ('act',)
    layer.act = nn.ReLU()
    with pytest.raises(UBNReplacedError, match='met 1 UBN'):
        fuse_conv_bn_eval(nn.Conv2d(3, 4, 3).eval(), layer.eval())


@ALL
def test_a_layer_that_evaluates_as_batchnorm_may_be_folded(name):
    net = net_of(plain)
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    folded = REPLACERS[name](net) or net  # one works in place
    torch.testing.assert_close(folded(x), before, rtol=1e-4, atol=1e-5)


def test_a_traced_layer_trains_as_before():
    net, other = net_of(plain), net_of(plain)
    REPLACERS['efficient'](net)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net.train()(x), other.train()(x), rtol=0, atol=0)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_an_efficient_conv_module_takes_a_layer_that_evaluates_as_batchnorm():
    norm_cfg = {'type': 'UBN', **OFF}
    module = ConvModule(3, 4, 3, norm_cfg=norm_cfg, efficient_conv_bn_eval=True)
    x = torch.randn(2, 3, 8, 8)
    module(x)
    y = module.eval()(x)
    module.turn_on_efficient_conv_bn_eval(False)
    torch.testing.assert_close(y, module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', sorted(CONVERSIONS))
def test_sync_bn_leaves_our_layers_as_they_are(name):
    ours = UBN(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), ours)
    assert CONVERSIONS[name](net)[1] is ours
    assert CONVERSIONS[name](ours) is ours


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'runner', 'strategy'])
def test_sync_bn_converts_the_batchnorm_beside_our_layers(name):
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), UBN(4))
    head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    converted = CONVERSIONS[name](nn.ModuleDict({'backbone': backbone, 'head': head}))
    assert type(converted['backbone'][1]) is UBN
    assert type(converted['head'][1]) is nn.SyncBatchNorm


class InheritsConversion(nn.SyncBatchNorm):
    """Somebody's SyncBatchNorm."""


class OwnConversion(nn.SyncBatchNorm):
    """Somebody's SyncBatchNorm that leaves some layers alone."""

    @classmethod
    def convert_sync_batchnorm(cls, module, process_group=None):
        if isinstance(module, nn.BatchNorm2d) and module.num_features == 4:
            return module
        return super().convert_sync_batchnorm(module, process_group)


def test_conversions_of_subclasses_are_their_own():
    net = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(3)))
    left, [converted] = OwnConversion.convert_sync_batchnorm(net)
    assert type(left) is nn.BatchNorm2d and type(converted) is nn.SyncBatchNorm
    conversion = InheritsConversion.convert_sync_batchnorm
    assert conversion.__self__ is InheritsConversion
    assert type(conversion(nn.BatchNorm2d(4))) is nn.SyncBatchNorm
    for kind in (InheritsConversion, OwnConversion):
        layers = kind.convert_sync_batchnorm(net_of(UBN))[0]
        assert [type(m) for m in layers] == [nn.Conv2d, UBN] * 2


def test_inference_interfaces_leave_ubn_alone():
    register_all_modules()
    cfg = Config.fromfile(DEMO)
    detectors = [
        init_detector(cfg.copy(), device='cpu'),
        DetInferencer(cfg.copy(), device='cpu', show_progress=False).model,
    ]
    for detector in detectors:
        assert sum(isinstance(m, UBN) for m in detector.modules()) == 20
