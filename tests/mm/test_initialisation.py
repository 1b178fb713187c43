"""The toolbox's initialisers leave UBN meaning what they mean for BatchNorm."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models import ResNet
from mmengine.model import constant_init, initialize, weight_init
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.mm import guard

# test_family.py has the default one.
STARTS = {
    'small': {'initial_weight': 0.1},
    "authors'": {'initial_weight': 0, 'initial_spatial': 'kaiming'},
}


def resnet(norm: str = 'UBN', zero_init_residual: bool = False, **settings) -> ResNet:
    torch.manual_seed(0)
    model = ResNet(
        18,
        norm_cfg={'type': norm, 'requires_grad': True} | settings,
        norm_eval=False,
        zero_init_residual=zero_init_residual,
    )
    model.init_weights()
    return model


def norms(model: nn.Module) -> dict[str, UBN]:
    return {name: m for name, m in model.named_modules() if isinstance(m, UBN)}


def is_last_of_block(name: str) -> bool:
    return name.startswith('layer') and name.endswith('bn2')


@pytest.mark.parametrize('start', STARTS.values(), ids=STARTS)
@pytest.mark.parametrize('zero_init_residual', [False, True])
def test_a_resnet_starts_as_it_was_told(start, zero_init_residual):
    layers = norms(resnet(zero_init_residual=zero_init_residual, **start))
    assert len(layers) == 20
    for name, layer in layers.items():
        zeroed = zero_init_residual and is_last_of_block(name)
        weight = 0 if zeroed else start['initial_weight']
        if start.get('initial_spatial') == 'kaiming' and not zeroed:
            assert 0 < layer.weight.std() < 0.2 and layer.weight.unique().numel() > 1
        else:
            assert (layer.weight == weight).all(), name
        assert not layer.bias.any() and not layer.centering_weight.any()
        assert not layer.scaling_weight.any() and (layer.scaling_bias == 1).all()
        if start.get('initial_spatial') != 'kaiming':
            assert not layer.spatial_weight.any()


@pytest.mark.parametrize('start', STARTS.values(), ids=STARTS)
def test_a_conv_module_does_not_overwrite_the_start(start):
    module = ConvModule(3, 8, 3, norm_cfg={'type': 'UBN'} | start)
    assert module.norm_name == 'bn'
    module.init_weights()
    if start.get('initial_spatial') == 'kaiming':
        assert 0 < module.bn.weight.abs().max() < 1
    else:
        assert (module.bn.weight == start['initial_weight']).all()


def test_a_constant_for_batchnorm_reaches_every_layer():
    model = resnet()
    initialize(model, {'type': 'Constant', 'val': 0.5, 'layer': '_BatchNorm'})
    for layer in norms(model).values():
        assert (layer.weight == 0.5).all()


class TestInitialWeight:
    """The toolbox's "start at one" is read as the layer's own start."""

    def test_takes_every_value_but_one(self):
        layer = UBN(4, initial_weight=0.1)
        constant_init(layer, 0.5)
        assert (layer.weight == 0.5).all()
        constant_init(layer, 1)
        assert (layer.weight == 0.1).all()

    def test_a_layer_without_weight(self):
        constant_init(UBN(4, affine=False), 1)

    def test_other_layers_start_at_one(self):
        norm = nn.BatchNorm2d(4)
        constant_init(norm, 0.5)
        constant_init(norm, 1)
        assert (norm.weight == 1).all()

    def test_is_the_guards_to_take_back(self):
        guard.uninstall()
        try:
            layer = UBN(4, initial_weight=0.1)
            weight_init.constant_init(layer, 1)
            assert (layer.weight == 1).all()
        finally:
            guard.install()
