"""Folded detectors predict what they predicted, live and from files."""

import copy

import pytest
import torch
from helpers import detectors
from helpers.commands import ROOT, run
from mmdet.apis import DetInferencer, init_detector
from mmdet.models import RetinaSepBNHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from ubn_mmdet import UBN
from ubn_mmdet.deploy import fold
from ubn_mmdet.mm.deploy import fold_checkpoint, fold_detector

TOOL = ROOT / 'tools/convert_checkpoint.py'
KINDS = pytest.mark.parametrize('kind', ['mask-rcnn', 'retinanet'])


def assert_same(found, wanted):
    """Equal to 1e-5, boxes relative to the size of the image, masks to a grey level."""
    assert len(wanted['scores']) > 3
    assert found.keys() == wanted.keys()
    close = {
        'scores': 1e-5,
        'bboxes': 1e-5 * max(detectors.SIZE),
        'labels': 0,
        'masks': 1.5 / 255,
    }
    for name, want in wanted.items():
        torch.testing.assert_close(found[name], want, rtol=0, atol=close[name])


@KINDS
def test_a_folded_detector_predicts_the_same(kind):
    cfg = detectors.config(kind, detectors.KERNEL)
    if kind == 'mask-rcnn':
        cfg.model.neck.norm_cfg = {'type': 'BN'}
        cfg.model.roi_head.mask_head.norm_cfg = detectors.KERNEL | {'kernel_size': 1}
    model = detectors.detector(cfg)
    thresholds = copy.deepcopy(model.test_cfg)
    want = detectors.predictions(model)
    report = fold_detector(model)
    assert_same(detectors.predictions(model), want)
    norms = 20 + (8 + 4) * (kind == 'mask-rcnn')
    assert len(report.folds) == norms and not report.left
    assert all(one.convolutions for one in report.folds)
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    assert model.test_cfg == thresholds


def test_in_float64_with_a_feature_pyramid():
    cfg = detectors.config('retinanet', detectors.KERNEL)
    model = detectors.detector(cfg).double()
    before, x = copy.deepcopy(model), detectors.image(1).double()
    fold(model, lambda: model(x))
    with torch.no_grad():
        # At a size whose maps are not whole at every stride.
        x = detectors.image(2, (72, 88)).double()
        ours, theirs = model(x), before(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'centernet/centernet_r18_8xb16-crop512-140e_coco',
        'dino/dino-4scale_r50_8xb2-12e_coco',
        'fast_rcnn/fast-rcnn_r50_fpn_1x_coco',
    ],
)
def test_detectors_that_ask_for_more_than_an_image(name):
    cfg = get_config(f'mmdet::{name}.py')
    cfg.model.backbone.norm_cfg = detectors.KERNEL
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
    report = fold_detector(model)
    assert len(report.folds) >= 20


def test_what_has_learnt_to_depend_on_its_input_is_left_and_named():
    model = detectors.detector(detectors.config('retinanet'))
    want = detectors.predictions(model)
    report = fold_detector(model)
    assert len(report.left) == 20 and not report.folds
    said = 'backbone.layer2.0.downsample.1: left, scaling_weight is not zero'
    assert said in str(report).splitlines()
    assert sum(type(module) is UBN for module in model.modules()) == 20
    torch.testing.assert_close(detectors.predictions(model), want, rtol=0, atol=0)


def test_a_detector_that_leaves_padding_out_is_refused():
    cfg = detectors.config('retinanet', detectors.KERNEL)
    cfg.model.data_preprocessor.type = 'PaddingAware'
    with pytest.raises(ValueError, match='PaddingAware.* cannot be folded'):
        fold_detector(detectors.detector(cfg))


def test_norms_of_levels_behind_shared_convolutions():
    torch.manual_seed(0)
    head = RetinaSepBNHead(
        4,
        2,
        8,
        stacked_convs=2,
        feat_channels=8,
        norm_cfg=detectors.KERNEL | {'eps': 1e-3},
    )
    head = head.double().eval()
    for module in head.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
    before = copy.deepcopy(head)
    maps = [torch.randn(1, 8, 12, 10).double(), torch.randn(1, 8, 6, 5).double()]
    report = fold(head, lambda: head(maps))
    assert len(report.folds) == 8  # two towers of two, at two levels
    assert not any(one.convolutions for one in report.folds)
    torch.testing.assert_close(head(maps), before(maps), rtol=1e-10, atol=1e-10)


def test_a_config_may_name_the_class(tmp_path):
    cfg = detectors.config('retinanet', detectors.KERNEL)
    model = detectors.detector(cfg)
    cfg.dump(tmp_path / 'config.py')
    text = (tmp_path / 'config.py').read_text().replace("type='RetinaNet'", 'type=RN')
    text = 'from mmdet.models import RetinaNet as RN\n' + text
    (tmp_path / 'config.py').write_text(text)
    made, folded, _ = fold_checkpoint(
        tmp_path / 'config.py', {'state_dict': model.state_dict()}
    )
    made.dump(tmp_path / 'folded.py')
    again = MODELS.build(Config.fromfile(tmp_path / 'folded.py').model)
    again.load_state_dict(folded['state_dict'], strict=True)


@pytest.mark.slow
@KINDS
class TestFiles:
    """tools/convert_checkpoint.py --to deploy."""

    @pytest.fixture
    def files(self, kind, tmp_path):
        cfg = detectors.config(kind, detectors.KERNEL)
        model = detectors.detector(cfg)
        cfg.dump(tmp_path / 'config.py')
        meta = {
            'dataset_meta': {'classes': ('a', 'b', 'c', 'd')},
            'cfg': cfg.pretty_text,
        }
        torch.save(
            {'state_dict': model.state_dict(), 'meta': meta, 'optimizer': {}},
            tmp_path / 'epoch_6.pth',
        )
        said = run(
            TOOL, 'epoch_6.pth', 'folded.pth', '--to=deploy', '--config=config.py',
            cwd=tmp_path,
        )  # fmt: skip
        assert (
            '20 norm layers folded into convolutions, 0 into BatchNorm, 0 left' in said
        )
        return tmp_path, detectors.predictions(model)

    def test_they_load_wherever_a_detector_does(self, files):
        folder, want = files
        model = init_detector(
            str(folder / 'folded.py'), str(folder / 'folded.pth'), device='cpu'
        )
        assert model.dataset_meta['classes'] == ('a', 'b', 'c', 'd')
        assert not any(isinstance(module, _BatchNorm) for module in model.modules())
        assert_same(detectors.predictions(model), want)
        # Weights alone, too: the config is in them.
        inferencer = DetInferencer(weights=str(folder / 'folded.pth'), device='cpu')
        assert_same(detectors.predictions(inferencer.model), want)
        cfg = Config.fromfile(folder / 'folded.py')
        state = torch.load(folder / 'folded.pth', weights_only=True)['state_dict']
        MODELS.build(cfg.model).load_state_dict(state, strict=True)
        cfg.model.folds[0].norm = 'backbone.bn0'
        with pytest.raises(ValueError, match='the model has no backbone.bn0'):
            MODELS.build(cfg.model)

    def test_nothing_is_overwritten(self, files):
        folder, _ = files
        (folder / 'folded.pth').unlink()
        command = [TOOL, 'epoch_6.pth', 'folded.pth', '--to=deploy']
        assert 'folded.py exists already' in run(
            *command, '--config=config.py', cwd=folder, ok=False
        )
        assert '--to deploy and --config go together' in run(
            *command, cwd=folder, ok=False
        )
        assert not (folder / 'folded.pth').exists()
