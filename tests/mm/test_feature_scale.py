"""Features are measured where a neck takes them."""

import pytest
import torch
from helpers.commands import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.mm.feature_scale import feature_scale

CONFIG = ROOT / 'configs/demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'


def test_scales_follow_the_weights(tmp_path):
    fresh = feature_scale(CONFIG, size=64, images=2)
    assert len(fresh['backbone']) == 4 and len(fresh['neck']) == 5
    register_all_modules()
    model = MODELS.build(Config.fromfile(CONFIG).model)
    with torch.no_grad():
        for layer in model.neck.lateral_convs:
            layer.conv.weight.zero_()
            layer.conv.bias.zero_()
        model.neck.fpn_convs[0].conv.bias.zero_()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    loaded = feature_scale(CONFIG, tmp_path / 'weights.pth', size=64, images=2)
    assert loaded['neck'][0] == pytest.approx(0, abs=1e-6)
    assert fresh['neck'][0] > 0.1
    assert loaded['backbone'][0] > 0
