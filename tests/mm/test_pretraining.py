"""Pre-training: the configs, and what a detector takes from them.

MMPreTrain itself runs in other processes; here its configs are read alone.
"""

from pathlib import Path

import pytest
from helpers.commands import ROOT, run
from helpers.pretraining import FOLDER, PYTHONPATH, needs_mmpretrain
from mmengine.config import Config

from ubn_mmdet.comparison.spec import Comparison

CONFIGS = ROOT / 'configs/pretrain'
IN1K = sorted(path.name for path in CONFIGS.glob('*_in1k.py'))
TWINS = sorted(path.name for path in CONFIGS.glob('*_bn_*.py'))
BN = {'type': 'BN', 'requires_grad': True}
UBN = {
    'type': 'UBN',
    'initial_weight': 0,
    'initial_spatial': 'kaiming',
    'requires_grad': True,
}

pytestmark = needs_mmpretrain


@pytest.fixture(autouse=True)
def configs_of_mmpretrain(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def load(path) -> dict:
    return Config.fromfile(path).to_dict()


@pytest.mark.parametrize('name', IN1K)
def test_the_recipe_is_mmpretrains_with_a_norm(name, tmp_path):
    ours = load(CONFIGS / name)
    norm_cfg = ours['model']['backbone'].pop('norm_cfg')
    # As BatchNorm does in this recipe, over the images of one GPU.
    assert norm_cfg == (UBN | {'sync': False} if '_ubn_' in name else BN)
    assert ours.pop('custom_imports')['imports'] == ['ubn_mmdet']
    ours.pop('norm')
    stock = name.replace('_ubn', '').replace('_bn', '')
    plain = tmp_path / 'plain.py'
    plain.write_text(f"_base_ = ['mmpretrain::resnet/{stock}']")
    assert ours == load(plain)
    assert ours['train_cfg']['max_epochs'] == 100


def test_every_recipe_is_for_both_norms():
    names = {path.name for path in CONFIGS.glob('*.py')}
    assert names == {*TWINS, *(name.replace('_bn_', '_ubn_') for name in TWINS)}
    assert len(TWINS) == 3


@pytest.mark.parametrize('name', TWINS)
def test_twins_differ_in_the_norm_alone(name):
    bn, ubn = (load(CONFIGS / n) for n in (name, name.replace('_bn_', '_ubn_')))
    for config in bn, ubn:
        config.pop('norm')
        config['model']['backbone'].pop('norm_cfg')
    assert bn == ubn


def test_detectors_name_what_pre_training_leaves():
    names = Config.fromfile(ROOT / 'configs/_base_/imagenet.py')
    for norm in 'bn', 'ubn':
        for depth, checkpoint in names[f'{norm}_imagenet'].items():
            path = Path(checkpoint)
            name = f'{path.parent.name}.py'
            assert name == f'resnet{depth[1:]}_{norm}_8xb32_in1k.py' and name in IN1K
            assert path.name == 'epoch_100.pth' and path.parts[0] == 'work_dirs'


FIRST = 'comparisons/coco_mini-pretraining.py'
FROZEN = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}


def assert_continues(second, scratch):
    """It starts from the backbones of the first half, and is else as from scratch."""
    first = Comparison.open(ROOT / FIRST)
    runs = {
        (ROOT / 'work_dirs/comparisons' / first.name / first.detector_name())
        / f'{run.norm.name}/seed{run.seed}/final.pth': run.norm.preset
        for run in first.runs()
    }
    for run_ in second.runs():
        start = run_.norm.options['model.backbone.init_cfg']
        assert start['prefix'] == 'backbone.'
        assert runs[ROOT / start['checkpoint']] == run_.norm.preset
    for field in 'data', 'detector', 'classes', 'train_images', 'image_size', 'epochs':
        assert getattr(second, field) == getattr(scratch, field), field


@pytest.mark.parametrize('name', ['coco_mini-pretrained', 'coco_mini-pretrained-live'])
def test_the_miniature_starts_from_the_backbones_of_its_first_half(name):
    first = Comparison.open(ROOT / FIRST)
    second = Comparison.open(ROOT / f'comparisons/{name}.py')
    scratch = Comparison.open(ROOT / 'comparisons/coco_mini.py')
    assert_continues(second, scratch)
    assert second.norm_names() == first.norm_names() == scratch.norm_names()
    assert second.options == ({} if name.endswith('live') else FROZEN)


@pytest.mark.parametrize('name', ['nuclei-pretrained', 'nuclei-pretrained-live'])
def test_on_nuclei_as_well_frozen_and_live(name):
    second = Comparison.open(ROOT / f'comparisons/{name}.py')
    assert_continues(second, Comparison.open(ROOT / 'comparisons/nuclei.py'))
    assert second.norm_names() == Comparison.open(ROOT / FIRST).norm_names()
    assert second.options == ({} if name.endswith('live') else FROZEN)
    for run_ in second.runs():
        assert set(run_.norm.options) == {'model.backbone.init_cfg'}


# Every backbone is built by MMPreTrain from its config, and by MMDetection from the
# detector's; the state of one goes into the other with nothing missing or left over.
BACKBONES = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from ubn_mmdet import UBN
root, *names = sys.argv[1:]
for name in names:
    depth, norm = int(name[6:].split('_')[0]), name.split('_')[1]
    cfg = Config.fromfile(f'{root}/configs/pretrain/{name}')
    init_default_scope(cfg.default_scope)
    ours = MODELS.build(cfg.model).backbone
    detector = f'protocol/mask-rcnn_r{depth}_fpn_{norm}_1x_coco.py'
    if depth == 18:
        detector = f'demo/mask-rcnn_r18-scratch_fpn_{norm}_6e_shapes.py'
    cfg = Config.fromfile(f'{root}/configs/{detector}')
    init_default_scope('mmdet')
    theirs = MODELS.build(cfg.model.backbone)
    assert type(ours).__module__.startswith('mmpretrain.'), type(ours)
    assert type(theirs).__module__.startswith('mmdet.'), type(theirs)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    kind = UBN if norm == 'ubn' else torch.nn.BatchNorm2d
    print(name, sum(type(m) is kind for m in ours.modules()))
"""


@pytest.mark.slow
def test_a_detectors_backbone_takes_the_whole_state(tmp_path):
    names = sorted(path.name for path in CONFIGS.glob('*.py'))
    output = run('-c', BACKBONES, ROOT, *names, cwd=tmp_path, path=PYTHONPATH)
    layers = {18: 20, 50: 53, 101: 104}
    for name in names:
        assert f'{name} {layers[int(name[6:].split("_")[0])]}' in output.splitlines()
