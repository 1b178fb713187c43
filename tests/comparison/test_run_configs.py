"""From a comparison to the configs of its runs, and what these are recognised by."""

import os
import shutil
import sys

import pytest
import torch
from helpers.commands import ROOT
from helpers.comparisons import FIELDS, configs, few_shapes
from mmengine.config import Config
from mmengine.registry import MODELS

from ubn_mmdet.comparison import controls
from ubn_mmdet.comparison.spec import Comparison, SpecError
from ubn_mmdet.comparison.training.configs import (
    config_hash,
    preset,
)
from ubn_mmdet.comparison.training.plan import make_plan
from ubn_mmdet.comparison.training.run import shared_start
from ubn_mmdet.mm.config_nodes import nodes_of


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return few_shapes(tmp_path_factory.mktemp('data') / 'shapes')


def test_configs_follow_the_comparison(shapes):
    bn, ubn = configs(Comparison.read(FIELDS), shapes).values()
    assert bn.model.backbone.norm_cfg == preset('bn')
    assert ubn.model.backbone.norm_cfg == preset('ubn')
    for cfg in bn, ubn:
        assert cfg.train_cfg.max_epochs == 1
        assert [s.end for s in cfg.param_scheduler] == [50, 1]
        assert cfg.train_dataloader.batch_size == 2
        for loader in ('train', 'val'):
            assert cfg[f'{loader}_dataloader'].num_workers == 0
            assert not cfg[f'{loader}_dataloader'].persistent_workers
            [resize] = [
                step
                for step in cfg[f'{loader}_dataloader'].dataset.pipeline
                if step.type == 'Resize'
            ]
            assert resize.scale == (64, 64)
        assert cfg.randomness.seed == 3
    bn.model.backbone.norm_cfg = ubn.model.backbone.norm_cfg
    assert bn.to_dict() == ubn.to_dict()


def plan_of(comparison, folder, work_dir):
    return make_plan(comparison, comparison.all_runs, folder, work_dir)


def hashes(made):
    return [made['setting_hash'], *(run['config_hash'] for run in made['runs'])]


def test_identity_is_what_decides_about_a_result(shapes, tmp_path):
    def plan(folder=shapes, **changes):
        return plan_of(Comparison.read(FIELDS | changes), folder, tmp_path)

    first = hashes(plan())
    assert len(set(first)) == 3
    moved = tmp_path / 'elsewhere'
    moved.symlink_to(shapes)
    os.makedirs(tmp_path / 'copy')
    assert hashes(plan(moved)) == hashes(plan(epochs=1)) == first
    for changes in (
        {'epochs': 2},
        {'image_size': 96},
        {'batch_size': 3},
        {'processes': 2},
        {'workers': 2},
        {'options': {'train_dataloader.dataset.indices': 4}},
        {'options': {'optim_wrapper.optimizer.lr': 0.1}},
    ):
        assert not set(hashes(plan(**changes))) & set(first), changes
    other_seed = hashes(plan(groups=[{'norms': ['BN'], 'seeds': [4]}]))
    assert other_seed[0] == first[0] and other_seed[1] not in first
    logging = plan(options={'default_hooks.logger.interval': 7})
    assert hashes(logging) == first


def test_pre_trained_weights_are_recognised_by_what_they_are(shapes, tmp_path):
    def plan(path):
        start = {'_delete_': True, 'type': 'Pretrained', 'checkpoint': str(path)}
        norm = {'name': 'BN', 'options': {'model.backbone.init_cfg': start}}
        fields = FIELDS | {'groups': [{'norms': [norm], 'seeds': [3]}]}
        made = plan_of(Comparison.read(fields), shapes, tmp_path)
        return made['setting_hash'], made['runs'][0]['config_hash']

    one, two = tmp_path / 'one.pth', tmp_path / 'two.pth'
    torch.save({'state_dict': {}}, one)
    shutil.copy(one, two)
    first = plan(one)
    assert plan(two) == first
    torch.save({'state_dict': {'fc.bias': torch.zeros(1)}}, two)
    setting, run = plan(two)
    assert setting == first[0] and run != first[1]
    with pytest.raises(SpecError, match=r'no pre-trained weights .*three\.pth'):
        plan(tmp_path / 'three.pth')


def test_weights_that_the_config_names_are_each_norms_own(shapes, tmp_path):
    protocol = {'detector': 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py', 'epochs': 3}
    with pytest.raises(SpecError, match='no pre-trained weights work_dirs'):
        plan_of(Comparison.read(FIELDS | protocol), shapes, tmp_path)
    torch.save({'state_dict': {}}, path := f'{tmp_path}/BN.pth')
    norms = {'norms': [{'name': 'BN', 'backbone': path}], 'seeds': [3]}
    comparison = Comparison.read(FIELDS | protocol | {'groups': [norms]})
    [run] = plan_of(comparison, shapes, tmp_path)['runs']
    assert run['settings']['norm'] == 'BN'


def test_weights_of_other_runs_need_not_be_there_yet(shapes, tmp_path):
    norms = [
        {'name': name, 'preset': 'bn', 'backbone': f'{tmp_path}/{name}-{{seed}}.pth'}
        for name in ('BN', 'other')
    ]
    groups = {'groups': [{'norms': norms, 'seeds': [0, 1]}]}
    comparison = Comparison.read(FIELDS | groups)
    torch.save({'state_dict': {}}, tmp_path / 'BN-0.pth')
    [run] = comparison.runs(only=['BN'], seeds=[0])
    [entry] = make_plan(comparison, [run], shapes, tmp_path)['runs']
    assert entry['settings']['norm'] == 'BN'
    with pytest.raises(SpecError, match='no pre-trained weights .*other-0'):
        plan_of(comparison, shapes, tmp_path)


@pytest.mark.slow
def test_norms_of_every_kind_start_from_the_same_values(shapes):
    depthwise = {'model.backbone.norm_cfg.type': f'{controls.__name__}.DepthwiseBN'}
    norms = ['BN', 'UBN', 'GN', {'name': 'D', 'preset': 'bn', 'options': depthwise}]
    norms.append({'name': 'pre-trained', 'preset': 'bn', 'backbone': 'weights.pth'})
    groups = {'groups': [{'norms': norms, 'seeds': [3]}]}
    found = configs(Comparison.read(FIELDS | groups), shapes)
    starts = {name: shared_start(cfg, 3) for name, cfg in found.items()}
    assert not [key for key in starts['BN'] if '.bn' in key or '.downsample.1' in key]
    others = {k: v for k, v in starts['BN'].items() if not k.startswith('backbone.')}
    torch.testing.assert_close(starts.pop('pre-trained'), others, rtol=0, atol=0)
    for name, start in starts.items():
        torch.testing.assert_close(start, starts['BN'], rtol=0, atol=0)
        assert start.keys() < MODELS.build(found[name].model).state_dict().keys()


def test_images_may_fit_into_a_rectangle(shapes):
    for cfg in configs(
        Comparison.read(FIELDS | {'image_size': [96, 64]}), shapes
    ).values():
        for loader in ('train', 'val', 'test'):
            [resize] = nodes_of(cfg[f'{loader}_dataloader'], 'Resize')
            assert tuple(resize.scale) == (96, 64) and resize.keep_ratio is True


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'detector': 'demo/none.py'}, 'the detector is neither'),
        (
            {'groups': [{'norms': ['XN'], 'seeds': [0]}]},
            "no norm preset 'xn'.*bn-small",
        ),
        ({'options': {'model.backbone.depth.x': 1}}, 'do not fit'),
    ],
)
def test_what_does_not_fit_is_named(shapes, changes, message):
    with pytest.raises(SpecError, match=message):
        configs(Comparison.read(FIELDS | changes), shapes)


def test_a_part_of_the_images_is_counted(shapes, tmp_path):
    options = {'train_dataloader.dataset.indices': 4}
    plan = plan_of(Comparison.read(FIELDS | {'options': options}), shapes, tmp_path)
    assert plan['runs'][0]['settings']['train_images'] == 4


def test_a_detector_is_evaluated_by_what_is_to_be_decided(shapes, tmp_path):
    boxes = {'detector': 'demo/faster-rcnn_r18-scratch_fpn_bn_6e_shapes.py'}
    boxes['primary'] = [{'norm': 'UBN', 'metric': 'segm_mAP'}]
    with pytest.raises(
        SpecError, match='about segm_mAP, and .* evaluated by bbox_mAP$'
    ):
        plan_of(Comparison.read(FIELDS | boxes), shapes, tmp_path)


def written(tmp_path, base, text):
    """The path of a detector's config that is based on one of ours."""
    path = tmp_path / 'detector_1x_some.py'
    path.write_text(f"_base_ = '{ROOT}/configs/{base}'\n{text}\n")
    return str(path)


@pytest.mark.parametrize(
    ('epochs', 'milestones'),
    [(12, [8, 11]), (24, [16, 22]), (6, [4, 5]), (4, [2, 3]), (3, [1, 2])],
)
def test_every_decay_of_the_schedule_happens(shapes, epochs, milestones):
    fields = {'detector': 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py', 'epochs': epochs}
    for cfg in configs(Comparison.read(FIELDS | fields), shapes).values():
        [decay] = [s for s in cfg.param_scheduler if 'milestones' in s]
        assert decay.milestones == milestones


def test_a_warm_up_in_epochs_has_one_at_least(shapes, tmp_path):
    base = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
    warm_up = "[dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1)]"
    detector = written(tmp_path, base, f'param_scheduler = {warm_up}')
    for cfg in configs(
        Comparison.read(FIELDS | {'detector': detector}), shapes
    ).values():
        assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 1)]


@pytest.mark.parametrize(
    'schedule', ['None', "dict(_delete_=True, type='LinearLR', end=6)"]
)
def test_a_schedule_may_be_none_or_one(shapes, tmp_path, schedule):
    base = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
    detector = written(tmp_path, base, f'param_scheduler = {schedule}')
    comparison = Comparison.read(FIELDS | {'detector': detector, 'epochs': 12})
    for cfg in configs(comparison, shapes).values():
        assert cfg.param_scheduler is None or cfg.param_scheduler.end == 12


def test_epochs_without_a_place_for_every_decay_are_refused(shapes):
    fields = {'detector': 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py', 'epochs': 2}
    with pytest.raises(SpecError, match=r'\[8, 11\] of 12: .* at least 3, got 2'):
        configs(Comparison.read(FIELDS | fields), shapes)


def test_what_holds_for_the_norm_that_is_replaced_holds_on(shapes):
    old = {'model.backbone.norm_cfg.eps': 0.01, 'model.backbone.norm_cfg.momentum': 0.2}
    for name, cfg in configs(
        Comparison.read(FIELDS | {'options': old}), shapes
    ).items():
        assert cfg.model.backbone.norm_cfg.type == name
        assert cfg.model.backbone.norm_cfg.eps == 0.01
        assert cfg.model.backbone.norm_cfg.momentum == 0.2


def test_everything_that_decides_is_in_the_hash():
    def hash_of(**more):
        return config_hash(Config({'model': {'type': 'A'}, **more}), ROOT, 'data', 1)

    first = hash_of()
    assert hash_of(data_preprocessor={'mean': [1]}) != first
    assert hash_of(model_wrapper_cfg={'type': 'B'}) != first
    assert hash_of(work_dir='here', launcher='none', log_level='INFO') == first


def test_an_image_that_is_exchanged_makes_other_runs(shapes, tmp_path):
    copy = shutil.copytree(shapes, tmp_path / 'shapes')
    comparison = Comparison.read(FIELDS)
    first = hashes(plan_of(comparison, copy, tmp_path))
    shutil.copy(copy / 'train/000001.png', copy / 'train/000002.png')
    assert first[0] != hashes(plan_of(comparison, copy, tmp_path))[0]
    shutil.copy(shapes / 'train/000002.png', copy / 'train/000002.png')
    (copy / 'train/thumbnails').touch()  # no image of the data
    assert hashes(plan_of(comparison, copy, tmp_path)) == first


def test_a_detectors_own_weights_are_loaded_and_are_in_the_hash(shapes, tmp_path):
    weights = tmp_path / 'weights.pth'
    base = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
    detector = written(tmp_path, base, f'load_from = {str(weights)!r}')
    comparison = Comparison.read(FIELDS | {'detector': detector})
    with pytest.raises(SpecError, match=r'no pre-trained weights .*weights\.pth'):
        plan_of(comparison, shapes, tmp_path)
    assert not (tmp_path / 'preflight').exists()  # it takes longer
    values = {
        'backbone.conv1.weight': torch.full((64, 3, 7, 7), 0.5),
        'backbone.bn1.weight': torch.full((64,), 0.25),
        'roi_head.bbox_head.fc_cls.weight': torch.zeros(81, 1024),  # of other classes
    }
    torch.save({'state_dict': values}, weights)
    first = plan_of(comparison, shapes, tmp_path)
    start = shared_start(configs(comparison, shapes)['UBN'], 3)
    for name in 'backbone.conv1.weight', 'backbone.bn1.weight':
        torch.testing.assert_close(start[name], values[name])
    assert start['roi_head.bbox_head.fc_cls.weight'].shape[0] < 81
    torch.save({'state_dict': {}}, weights)
    other = plan_of(comparison, shapes, tmp_path)
    assert first['setting_hash'] != other['setting_hash']
    assert first['runs'][0]['config_hash'] != other['runs'][0]['config_hash']


EVERYTHING = {'setting', 'bn', 'mine', 'norm'}


@pytest.mark.parametrize(
    ('of_norm', 'options', 'changed'),
    [
        (
            'MyNorm',
            {'custom_imports.imports': ['ubn_mmdet', 'norms_of_mine']},
            EVERYTHING,
        ),
        ('norms_of_mine.MyNorm', {}, {'mine', 'norm'}),
        (
            'BN',
            {'custom_hooks': [{'type': 'norms_of_mine.MyHook'}]},
            EVERYTHING,
        ),
    ],
    ids=['imported', 'named in a norm', 'hook'],
)
def test_the_code_of_ones_own_norm_is_in_the_hash(
    shapes, tmp_path, monkeypatch, of_norm, options, changed
):
    """A commit says nothing of it."""
    file = tmp_path / 'norms_of_mine.py'
    file.write_text(
        'from torch import nn\n'
        'from mmengine.registry import MODELS\n'
        '@MODELS.register_module(force=True)\n'
        'class MyNorm(nn.BatchNorm2d):\n'
        '    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'norms_of_mine', raising=False)
    mine = {
        'name': 'Mine',
        'preset': 'bn',
        'options': {'model.backbone.norm_cfg.type': of_norm},
    }
    groups = [{'norms': ['BN', mine], 'seeds': [3]}]
    fields = FIELDS | {'groups': groups, 'primary': [], 'options': options}

    def found():
        plan = plan_of(Comparison.read(fields), shapes, tmp_path / 'w')
        bn, mine = plan['runs']
        return {
            'setting': plan['setting_hash'],
            'bn': bn['config_hash'],
            'mine': mine['config_hash'],
            'norm': mine['settings']['norm_hash'],
        }

    before = found()
    assert before == found()
    file.write_text(file.read_text().replace('pass', 'momentum = 0.2'))
    after = found()
    assert {name for name in before if before[name] != after[name]} == changed
