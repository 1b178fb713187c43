"""Features are measured where a neck and heads take them."""

import pytest
import torch
from helpers.commands import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.mm.feature_scale import feature_scales

CONFIG = ROOT / 'configs/demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'


def test_a_number_for_each_level_of_backbone_and_neck():
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    images = torch.randn(2, 3, 64, 64)
    fresh = feature_scales(model, images)
    assert len(fresh['backbone']) == 4 and len(fresh['neck']) == 5
    assert min(fresh['neck']) > 0.1
    with torch.no_grad():
        for convolution in model.neck.fpn_convs:
            convolution.conv.weight.mul_(3)
    larger = feature_scales(model, images)
    assert larger['backbone'] == pytest.approx(fresh['backbone'])
    assert larger['neck'] == pytest.approx([3 * scale for scale in fresh['neck']])
    model.neck = None
    assert feature_scales(model, images).keys() == {'backbone'}
