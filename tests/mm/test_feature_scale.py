"""Features are measured where a neck takes them."""

import pytest
import torch
from helpers.commands import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.data.shapes import make_shapes
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


def test_of_a_classifier_the_backbone_is_taken(tmp_path):
    options = {'model.backbone.norm_cfg.type': 'UBN'}
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(options)
    register_all_modules()
    backbone = MODELS.build(cfg.model.backbone)
    with torch.no_grad():
        for block in backbone.layer4:
            block.bn2.weight.zero_()
        backbone.layer4[0].downsample[1].weight.zero_()
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(3, 512)
    torch.save({'state_dict': state}, tmp_path / 'classifier.pth')
    scales = feature_scale(CONFIG, tmp_path / 'classifier.pth', 64, options=options)
    assert scales.keys() == {'backbone'}
    assert scales['backbone'][2] > 0.1 and scales['backbone'][3] == 0
    with pytest.raises(RuntimeError, match='size mismatch|Unexpected key'):
        feature_scale(CONFIG, tmp_path / 'classifier.pth', 64)


def test_images_of_a_folder_take_the_place_of_noise(tmp_path):
    make_shapes(tmp_path, num_train=6, num_val=2, image_size=64)
    noise = feature_scale(CONFIG, size=64, images=2)
    images = feature_scale(CONFIG, size=64, images=2, folder=tmp_path / 'val')
    assert images['backbone'] != noise['backbone'] and min(images['neck']) > 0
    with pytest.raises(ValueError, match=r'val has 2 images, 3 are wanted'):
        feature_scale(CONFIG, size=64, images=3, folder=tmp_path / 'val')
