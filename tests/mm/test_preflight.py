"""Faults that would spoil a comparison are found before it is run."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from helpers.commands import ROOT, run
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet import UBN
from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.preflight import Side, checks, preflight
from ubn_mmdet.mm.preflight.checks import STEPS, closed_steps, forecast_gates

CONFIG = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'
HOOKS = (
    *('CheckInvalidLossHook', 'BroadcastBuffersHook'),
    *('CheckpointLayoutHook', 'FeatureScaleHook'),
)
NORM = 'model.backbone.norm_cfg'
HELD = {'model.backbone.norm_eval': True}
# Small, and with all that a comparison should have.
BASE = Config.fromfile(CONFIG)
BASE.merge_from_dict({
    'model.backbone': {'base_channels': 8, 'stem_channels': 8},
    'model.neck': {'in_channels': [8, 16, 32, 64], 'out_channels': 16},
    'model.bbox_head': {'in_channels': 16, 'feat_channels': 16, 'stacked_convs': 1},
    'custom_hooks': [{'type': hook} for hook in HOOKS],
    'auto_scale_lr': {'enable': True, 'base_batch_size': 8},
})  # fmt: skip
register_all_modules()


def preset(name):
    return Config.fromfile(ROOT / f'configs/_base_/norms/{name}.py').norm


def side(norm, options=None):
    cfg = deepcopy(BASE)
    cfg.model.backbone.norm_cfg = preset(norm)
    cfg.merge_from_dict(deepcopy(options or {}))
    return Side(norm, cfg)


def told(findings):
    """All but notes, as the tool prints them."""
    return ['{} {}: {}'.format(*f) for f in findings if f.level != 'note']


def hooks_but(name):
    return {'custom_hooks': [{'type': hook} for hook in HOOKS if hook != name]}


def weights(path):
    weights = {'type': 'Pretrained', 'checkpoint': str(path), 'prefix': 'backbone.'}
    weights['_delete_'] = True
    return {'model.backbone.init_cfg': weights}


@pytest.mark.parametrize('options', [{}, HELD], ids=['live', 'held'])
def test_twins_pass(options):
    found = [side(norm, options) for norm in ('bn-merged', 'ubn-from-bn')]
    manifest = preflight(*found, world=8)
    assert manifest['verdict'] == 'pass', manifest['findings']


PAPER = 'ubn', {}  # the authors' start
TWIN = 'ubn-from-bn', {}
CONSTRUCTOR, PARAMWISE = 'optim_wrapper.constructor', 'optim_wrapper.paramwise_cfg'
# What is wrong: the check, processes, the twins' norms and options, what is said.
FAULTS = {
    'another rate': (
        *(checks.config_keys, 1, TWIN),
        ('ubn-from-bn', {'optim_wrapper.optimizer.lr': 0.1}),
        'warning optim_wrapper.optimizer.lr: ubn-from-bn has 0.1 instead of 0.02',
    ),
    'gradients clipped once': (
        *(checks.config_keys, 1, TWIN),
        ('bn', {'optim_wrapper.clip_grad': {'max_norm': 35}}),
        'warning optim_wrapper.clip_grad.max_norm: bn has 35 instead of absent',
    ),
    'warmed up once': (
        *(checks.config_keys, 1, TWIN, ('bn', {'param_scheduler': []})),
        'warning param_scheduler: bn has [] instead of absent',
    ),
    'another momentum': (
        *(checks.norm_layers, 1, TWIN),
        ('bn', {f'{NORM}.momentum': 0.03}),
        'momentum: 0.1 with ubn-from-bn, 0.03 with bn; in 20 norm layers',
    ),
    'held once': (
        *(checks.norm_layers, 1, TWIN, ('bn', HELD)),
        'images in batch statistics: 8 with ubn-from-bn, 0 with bn; in 20 norm layers',
    ),
    'frozen once': (
        *(checks.norm_layers, 1, TWIN, ('bn', {'model.backbone.frozen_stages': 0})),
        'warning backbone.bn1: learns: True with ubn-from-bn, False with bn; in 1 norm',
    ),
    'merged once': (
        *(checks.norm_layers, 4, TWIN, ('bn', {})),
        'images in batch statistics: 32 with ubn-from-bn, 8 with bn',
    ),
    'merged in other groups': (
        *(checks.norm_layers, 16, TWIN),
        ('bn-merged', {f'{NORM}.sync_group_size': 8}),
        'images in batch statistics: 128 with ubn-from-bn, 64 with bn-merged',
    ),
    'a norm on one side': (
        *(checks.norm_layers, 1, TWIN, ('bn', {'model.neck.norm_cfg': {'type': 'BN'}})),
        'warning neck.lateral_convs.0: norm layers: 0 in ubn-from-bn, 1 in bn; in all 20, '
        '28',
    ),
    'as many norms elsewhere': (
        *(checks.norm_layers, 1, ('bn', {'model.neck.norm_cfg': {'type': 'BN'}})),
        ('bn', {'model.bbox_head': {'norm_cfg': {'type': 'BN'}, 'stacked_convs': 4}}),
        'norm layers: 1 in bn, 0 in bn; in all 28, 28',
    ),
    'kernels without decay': (
        *(
            checks.rates,
            1,
            TWIN,
            ('ubn', {CONSTRUCTOR: 'DefaultOptimWrapperConstructor'}),
        ),
        'warning spatial_weight: lr 0.02, decay 0.0001 with ubn-from-bn; lr 0.02, decay 0 '
        'with ubn, where lr * decay of the weight of a convolution is 2e-06',
    ),
    'a decay on one side': (
        *(checks.rates, 1, TWIN, ('bn', {f'{PARAMWISE}.norm_decay_mult': 1})),
        'warning bias: lr 0.02, decay 0 with ubn-from-bn; lr 0.02, decay 0.0001 with bn',
    ),
    'another rate on one side': (
        *(checks.rates, 1, TWIN),
        ('bn', {f'{PARAMWISE}.custom_keys': {'bn1.weight': {'lr_mult': 0.1}}}),
        'warning weight: lr 0.02, decay 0 with ubn-from-bn; lr 0.002, decay 0.0001 with bn',
    ),
    'gates that decay alone': (
        *(checks.rates, 1, ('bn', {})),
        ('ubn', {f'{PARAMWISE}.custom_keys': {'scaling_bias': {'decay_mult': 1}}}),
        'warning scaling_bias: lr 0.02, decay 0.0001 with ubn, where lr * decay of',
    ),
    'half the batch at the full rate': (
        *(
            checks.schedule,
            1,
            TWIN,
            ('bn', {'auto_scale_lr.enable': False, 'train_dataloader.batch_size': 4}),
        ),
        'refusal auto_scale_lr: bn has 4 images per step, and a learning rate for 8',
    ),
    'more processes at the same rate': (
        *(checks.schedule, 4, TWIN, ('bn', {'auto_scale_lr.enable': False})),
        'refusal auto_scale_lr: bn has 32 images per step, and a learning rate for 8',
    ),
    'no warm-up': (
        *(checks.schedule, 1, TWIN, ('ubn', {'param_scheduler': []})),
        'warning param_scheduler: ubn has no warm-up',
    ),
    'no seed': (
        *(checks.precautions, 1, TWIN, ('bn', {'randomness': {'seed': None}})),
        'warning randomness.seed: bn has no seed',
    ),
    'merged over two nodes': (
        *(checks.precautions, 16, ('bn-merged', {f'{NORM}.sync_group_size': 8}), TWIN),
        'warning norm_cfg: ubn-from-bn has statistics of 16 processes',
    ),
    'no CheckInvalidLossHook': (
        *(checks.precautions, 1, TWIN, ('bn', hooks_but('CheckInvalidLossHook'))),
        'warning custom_hooks: bn goes on with a loss that is not finite',
    ),
    'no BroadcastBuffersHook': (
        *(checks.precautions, 2, TWIN, ('bn', hooks_but('BroadcastBuffersHook'))),
        "warning custom_hooks: bn is evaluated with each process's own statistics",
    ),
    'no CheckpointLayoutHook': (
        *(checks.precautions, 1, TWIN),
        ('bn', HELD | weights('none.pth') | hooks_but('CheckpointLayoutHook')),
        'warning custom_hooks: bn takes the weights of any norm',
    ),
    'no FeatureScaleHook': (
        *(checks.precautions, 1, TWIN),
        ('bn', HELD | weights('none.pth') | hooks_but('FeatureScaleHook')),
        'warning custom_hooks: bn takes features that grow',
    ),
    'no weights': (
        *(checks.layouts, 1, TWIN, ('bn', weights('none.pth'))),
        'warning none.pth: bn starts from it, and it is not on this machine',
    ),
    'branches silent on one side': (
        *(
            checks.silent_branches,
            1,
            ('bn', {'model.backbone.zero_init_residual': True}),
        ),
        ('bn', {'model.backbone.zero_init_residual': False}),
        'norm layers that put out 0 at the start: 8 of bn and 0 of bn',
    ),
    'branches that one norm cannot silence': (
        *(
            checks.silent_branches,
            1,
            ('bn', {'model.backbone.zero_init_residual': True}),
        ),
        ('ubn', {'model.backbone.zero_init_residual': True}),
        'norm layers that put out 0 at the start: 8 of bn and 0 of ubn',
    ),
    'a small start': (
        *(checks.start_scales, 1, TWIN, PAPER),
        'warning neck: standard deviation of each output at the start',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_is_found(fault):
    check, world, a, b, expected = FAULTS[fault]
    found = told(check(side(*a), side(*b), world))
    assert len(found) >= 1 and any(expected in text for text in found), found


def test_a_warm_up_of_another_scope_is_one():
    options = {'param_scheduler': [{'type': 'mmdet.QuadraticWarmupLR'}]}
    assert told(checks.schedule(side('bn'), side('ubn', options), 1)) == []


def test_the_authors_rates_are_those_of_their_form():
    options = {f'{PARAMWISE}.norm_decay_mult': 1}
    found = [*checks.rates(side('bn', options), side('ubn', options), 1)]
    assert not told(found)
    texts = {finding.where: finding.what for finding in found}
    expected = 'lr 0.02, decay 0.0001 with bn; lr 0.0107, decay 0.000187 with ubn'
    assert texts['weight'].startswith(expected)


def test_norms_of_another_kind_are_compared_in_what_they_have():
    found = preflight(side('bn'), side('gn', {f'{NORM}.num_groups': 4}))['findings']
    assert {finding['level'] for finding in found} == {'note'}


@pytest.mark.parametrize(
    ('factor', 'places'),
    [
        (10, ['warning neck']),  # one level of five
        (torch.nan, ['refusal neck', 'refusal bbox_head']),
    ],
)
def test_start_of_another_size_is_found(factor, places):
    a, b = side('bn'), side('bn')
    with torch.no_grad():
        b.model.neck.fpn_convs[0].conv.weight.mul_(factor)
    found = told(checks.start_scales(a, b, 1))
    assert [text.split(':')[0] for text in found][: len(places)] == places


def test_a_model_that_cannot_run_here_is_checked_in_all_else(monkeypatch):
    def forward(self, x):
        raise RuntimeError('no kernel for the CPU')

    monkeypatch.setattr(type(side('bn').model.backbone), 'forward', forward)
    manifest = preflight(side('bn'), side('ubn-from-bn'))
    [found] = [f for f in manifest['findings'] if f['level'] == 'warning']
    assert found['where'] == 'scales'
    assert found['what'].endswith('not measured: RuntimeError: no kernel for the CPU')


@pytest.fixture
def trained(tmp_path):
    """The weights of a classifier with a norm."""

    def trained(norm):
        state = side(norm).model.state_dict()
        torch.save({'state_dict': state}, tmp_path / f'{norm}.pth')
        return tmp_path / f'{norm}.pth'

    return trained


@pytest.mark.parametrize(
    ('source', 'norm', 'options', 'is_refused'),
    [
        ('ubn', 'ubn-from-bn', HELD, False),
        ('bn', 'ubn-from-bn', HELD | hooks_but('CheckpointLayoutHook'), True),
        ('ubn', 'bn', HELD, True),
        # As finetune/ does: with live statistics it is BatchNorm that goes on.
        ('bn', 'ubn-from-bn', hooks_but('CheckpointLayoutHook'), False),
        ('bn', 'ubn-from-bn', {}, True),
        ('ubn', 'bn', hooks_but('CheckpointLayoutHook'), True),
    ],
)
def test_weights_of_another_norm(trained, source, norm, options, is_refused):
    path = trained(source)
    for start in weights(path), {'load_from': str(path)}:
        found = told(checks.layouts(side('bn'), side(norm, options | start), 1))
        assert len(found) == is_refused
        assert all(text.startswith(f'refusal {path}: is of another') for text in found)


def test_gate_closes_where_the_recurrence_says():
    layer = UBN(1)
    # m after k steps of c = 0 is 0.9**k, which is below 0.15 from the 19th on.
    assert closed_steps(layer, [0.0]) == [*range(19, STEPS + 1)]
    assert closed_steps(layer, [0.16]) == []
    assert closed_steps(layer, [0.0, 0.4]) == []  # their mean counts
    settled = UBN(1, condensation_min_updates=100)
    assert closed_steps(settled, [0.0]) == [*range(101, STEPS + 1)]
    reversed_gate = UBN(1, condensation_opens='dissimilar')
    assert closed_steps(reversed_gate, [0.0]) == [*range(1, 19)]


def test_gates_are_forecast_from_training_images(tmp_path, monkeypatch):
    data = make_shapes(tmp_path / 'shapes', num_train=8, num_val=1, image_size=64)
    loader = {'dataset.data_root': f'{data}/', 'batch_size': 4}
    options = {f'train_dataloader.{key}': value for key, value in loader.items()}
    threshold = {f'{NORM}.condensation_threshold': 0.5}
    *closing, rest = forecast_gates(side('ubn-from-bn', options | threshold), 8)
    assert closing and {finding.level for finding in closing} == {'warning'}
    assert f'{20 - len(closing)} of 20 gates of ubn-from-bn stay open' in rest.what
    assert rest.what.endswith('in 2 batches')
    # BatchNorm is measured as if it had such a gate.
    supposed = partial(UBN, condensation_threshold=0.5)
    monkeypatch.setattr('ubn_mmdet.mm.preflight.checks.UBN', supposed)
    *measured, _ = forecast_gates(side('bn', options), 8)
    for supposed, real in zip(measured, closing, strict=True):
        assert supposed.level == 'note' and supposed.where == real.where
        assert supposed.what == 'if it had: ' + real.what.replace('ubn-from-bn', 'bn')


def test_without_data_there_is_no_forecast(tmp_path):
    options = {'train_dataloader.dataset.data_root': f'{tmp_path}/'}
    with pytest.raises(FileNotFoundError):
        [*forecast_gates(side('ubn', options), 8)]


def test_held_statistics_have_no_gate_to_forecast():
    [finding] = forecast_gates(side('ubn', HELD), 8)
    assert finding.what == 'ubn holds all statistics, so gates play no part'


def test_manifest_says_what_was_looked_at():
    twins = side('bn'), side('ubn-from-bn')
    manifest = preflight(*twins)
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest == preflight(*twins)
    assert manifest['id'] != preflight(*twins, world=2)['id']
    hashes = [config['hash'] for config in manifest['configs']]
    assert len(set(hashes)) == 2 and manifest['versions']['torch'] == torch.__version__
    with pytest.raises(ValueError, match='world'):
        preflight(*twins, world=0)


@pytest.mark.slow
def test_command_line(tmp_path):
    twin = str(CONFIG).replace('_bn_', '_ubn_')
    tool = ROOT / 'tools/preflight.py'
    output = run(tool, CONFIG, twin, '--out', 'manifest.json', cwd=tmp_path)
    assert 'warning  neck: ' in output and '0 refusals, 5 warnings' in output
    assert json.loads((tmp_path / 'manifest.json').read_text())['verdict'] == 'warnings'
    options = 'auto_scale_lr.base_batch_size=16', 'auto_scale_lr.enable=False'
    output = run(tool, CONFIG, twin, '--cfg-options', *options, cwd=tmp_path, ok=False)
    assert 'refusal  auto_scale_lr: A has 8 images per step' in output
    assert list((tmp_path / 'work_dirs/preflight').iterdir())
