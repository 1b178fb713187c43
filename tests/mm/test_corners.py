"""UBN under AMP, and where activation checkpointing meets a compiler or the toolbox."""

import torch
import torch.utils.checkpoint as cp
from helpers.layers import images
from mmdet.models import ResNet
from torch import nn

from ubn_mmdet import UBN


def resnet(**settings):
    torch.manual_seed(0)
    norm_cfg = settings.pop('norm_cfg', {'type': 'UBN', 'requires_grad': True})
    model = ResNet(18, norm_cfg=norm_cfg, **settings)
    model.init_weights()
    return model


def test_sums_of_half_precision_are_taken_in_float32():
    # The sum of squares is beyond float16, and its last digits are beyond bfloat16.
    for dtype in (torch.float16, torch.bfloat16):
        x = (300 + images(2, 3, 32, 32)).to(dtype)
        layer = UBN(3, momentum=1.0)
        layer(x)
        want = x.double().var((0, 2, 3))
        torch.testing.assert_close(layer.running_var.double(), want, rtol=1e-4, atol=0)


def test_checkpointing_a_compiled_layer_moves_the_state_as_batchnorms():
    moved = []
    for layer in (UBN(3), nn.BatchNorm2d(3)):
        compiled = torch.compile(layer, backend='eager')
        x = torch.randn(2, 3, 5, 5, requires_grad=True)
        cp.checkpoint(compiled, x, use_reentrant=False).sum().backward()
        moved.append(layer.num_batches_tracked.item())
    assert moved == [2, 2]


def test_with_cp_of_a_resnet_equals_without():
    settings = {'norm_eval': False, 'frozen_stages': -1}
    plain, saving = resnet(**settings), resnet(with_cp=True, **settings)
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        model.train()
        model(x.clone().requires_grad_())[-1].square().sum().backward()
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())
    for a, b in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
