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
NAMES = sorted(path.name for path in CONFIGS.glob('*.py'))
IN1K = [name for name in NAMES if name.endswith('_in1k.py')]
ARMS = [name for name in NAMES if '_bn_' not in name]
BN = {'type': 'BN', 'requires_grad': True}

pytestmark = needs_mmpretrain


@pytest.fixture(autouse=True)
def configs_of_mmpretrain(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def load(path) -> dict:
    return Config.fromfile(path).to_dict()


def norm_of(name: str) -> str:
    return name.split('_')[1]


@pytest.mark.parametrize('name', IN1K)
def test_the_recipe_is_mmpretrains_with_a_norm_and_a_warm_up(name, tmp_path):
    ours = load(CONFIGS / name)
    ours.pop('norm', None)
    stock = name.replace(f'_{norm_of(name)}_', '_')
    plain = tmp_path / 'plain.py'
    plain.write_text(f"_base_ = ['mmpretrain::resnet/{stock}']")
    theirs = load(plain)
    backbone = theirs['model']['backbone']
    backbone['norm_cfg'] = ours['model']['backbone']['norm_cfg']
    backbone['zero_init_residual'] = False
    warm_up, steps = ours.pop('param_scheduler')
    assert warm_up | {'type': 'LinearLR', 'end': 2500, 'by_epoch': False} == warm_up
    assert steps == unscoped(theirs.pop('param_scheduler'))
    hooks = [hook['type'] for hook in ours.pop('custom_hooks')]
    assert hooks == ['mmdet.CheckInvalidLossHook', 'BroadcastBuffersHook']
    assert ours.pop('custom_imports')['imports'] == ['ubn_mmdet']
    theirs['optim_wrapper']['constructor'] = 'UBNOptimWrapperConstructor'
    theirs['auto_scale_lr'] = {'enable': True, 'base_batch_size': 256}
    theirs['default_hooks']['checkpoint']['max_keep_ckpts'] = 3
    theirs['randomness']['seed'] = 0
    assert ours == theirs
    assert ours['train_cfg']['max_epochs'] == 100
    assert ours['train_dataloader']['batch_size'] == 32


def unscoped(node: dict) -> dict:
    return {key: value for key, value in node.items() if key != '_scope_'}


def test_every_norm_has_the_same_recipe():
    norms = {'bn', 'ubn', 'bnet', 'bn-small', 'ubn-no-gate'}
    assert {norm_of(n) for n in NAMES if n.startswith('resnet50')} == norms
    for depth in 18, 101:
        found = {norm_of(n) for n in NAMES if n.startswith(f'resnet{depth}_')}
        assert found == {'bn', 'ubn'}


@pytest.mark.parametrize('name', ARMS)
def test_arms_differ_from_batchnorm_in_the_norm_alone(name):
    arm, bn = (load(CONFIGS / n) for n in (name, bn_of(name)))
    expected = load(ROOT / f'configs/_base_/norms/{norm_of(name)}.py')['norm']
    if name in IN1K:
        expected['sync'] = False  # as BatchNorm does, over the images of one GPU
    assert arm['model']['backbone'].pop('norm_cfg') == expected
    assert bn['model']['backbone'].pop('norm_cfg') == BN
    for config in arm, bn:
        config.pop('norm', None)
    assert arm == bn


def bn_of(name: str) -> str:
    return name.replace(f'_{norm_of(name)}_', '_bn_')


def test_the_rate_of_the_crops_is_for_their_batch():
    config = load(CONFIGS / 'resnet18_bn_1xb64_crops.py')
    batch = config['train_dataloader']['batch_size']
    assert config['auto_scale_lr'] == {'enable': True, 'base_batch_size': batch}
    assert config['model']['backbone']['zero_init_residual'] is False
    assert config['param_scheduler'][0]['type'] == 'LinearLR'


def test_detectors_name_what_pre_training_leaves():
    detectors = (ROOT / 'configs/protocol').glob('*.py')
    named = {
        Path(Config.fromfile(path).model.backbone.init_cfg.checkpoint)
        for path in detectors
    }
    assert named == {
        Path('work_dirs', name.removesuffix('.py'), 'epoch_100.pth') for name in IN1K
    }


FIRST = 'comparisons/coco_mini-pretraining.py'
FROZEN = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}


@pytest.mark.parametrize('name', ['nuclei-pretrained', 'nuclei-pretrained-live'])
def test_the_miniature_starts_from_the_backbones_of_its_first_half(name):
    first = Comparison.open(ROOT / FIRST)
    second = Comparison.open(ROOT / f'comparisons/{name}.py')
    scratch = Comparison.open(ROOT / 'comparisons/nuclei.py')
    backbones = {
        (ROOT / 'work_dirs/comparisons' / first.name / first.detector_name())
        / f'{run.norm.name}/seed{run.seed}/final.pth': run.norm.preset
        for run in first.runs()
    }
    for run_ in second.runs():
        rate = 'optim_wrapper.optimizer.lr'
        assert set(run_.norm.options) == {'model.backbone.init_cfg', rate}
        start = run_.norm.options['model.backbone.init_cfg']
        assert start['prefix'] == 'backbone.'
        assert backbones[ROOT / start['checkpoint']] == run_.norm.preset
    for field in 'data', 'detector', 'image_size', 'epochs':
        assert getattr(second, field) == getattr(scratch, field), field
    assert [*second.planned()] == ['BN', 'UBN', 'BNET']
    frozen = {} if name.endswith('live') else FROZEN
    assert second.options == scratch.options | frozen


# Every backbone is built by MMPreTrain from its config, and by MMDetection from the
# detector's; the state of one goes into the other with nothing missing or left over.
BACKBONES = """
import sys
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm
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
    print(name, sum(isinstance(m, _BatchNorm) for m in ours.modules()))
"""


@pytest.mark.slow
def test_a_detectors_backbone_takes_the_whole_state(tmp_path):
    output = run('-c', BACKBONES, ROOT, *NAMES, cwd=tmp_path, path=PYTHONPATH)
    layers = {18: 20, 50: 53, 101: 104}
    for name in NAMES:
        assert f'{name} {layers[int(name[6:].split("_")[0])]}' in output.splitlines()
