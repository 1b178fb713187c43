"""Features that grow with the size of images stop a run."""

from types import SimpleNamespace

import pytest
import torch
from helpers.commands import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import HOOKS
from torch.nn.functional import interpolate

from ubn_mmdet.mm.start_hooks import FeatureScaleError

CONFIG = ROOT / 'configs/demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'


def look(model, pixels, iteration=0, **settings):
    hook = HOOKS.build({'type': 'FeatureScaleHook', **settings})
    torch.manual_seed(0)
    # Smooth, as photographs are: they can be shrunk.
    patches = 255 * torch.rand(2, 3, 4, 5)
    images = list(interpolate(patches, (pixels, pixels + 32), mode='bicubic'))
    runner = SimpleNamespace(model=model, iter=iteration)
    hook.before_train_iter(runner, 0, {'inputs': images, 'data_samples': None})


@pytest.fixture
def detector():
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model).train()
    model.backbone.layer4[0].bn1.eval()
    return model


def test_features_as_in_pre_training_pass_and_leave_the_model_alone(detector):
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    modes = [module.training for module in detector.modules()]
    look(detector, 128, size=64)
    torch.testing.assert_close(detector.state_dict(), state, rtol=0, atol=0)
    assert [module.training for module in detector.modules()] == modes


class GrowsWithTheMaps(torch.nn.Module):
    """Its last level is as large as its maps are, in evaluation."""

    def forward(self, x):
        return x.sign(), x.sign() * (1 if self.training else x.shape[2])


def test_features_that_grow_stop_the_run(detector):
    detector.backbone = GrowsWithTheMaps()
    detector.neck = None
    look(detector, 128, size=64, limit=2.5)
    with pytest.raises(
        FeatureScaleError, match=r'grow 2\.\d-fold from images of 64 .* 128'
    ):
        look(detector, 128, size=64, limit=1.5)
    look(detector, 128, size=64, limit=1.5, iteration=1)  # resumed
    look(detector, 64, size=64, limit=1.01)  # no larger than in pre-training


def test_features_that_are_no_numbers_stop_the_run(detector):
    with torch.no_grad():
        detector.backbone.conv1.weight.fill_(torch.nan)
    with pytest.raises(FeatureScaleError, match='nan-fold'):
        look(detector, 128, size=64)


@pytest.mark.parametrize(
    ('settings', 'error'),
    [
        ({'limit': 1}, ValueError),
        ({'limit': '3'}, TypeError),
        ({'size': 0}, ValueError),
    ],
)
def test_senseless_settings_are_refused(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        HOOKS.build({'type': 'FeatureScaleHook', **settings})
