"""Detectors train through the command lines: ours and MMDetection's own."""

import json

import pytest
from helpers.commands import ROOT, run

from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.tools import find_tool

DEMO_CONFIGS = ROOT / 'configs/demo'
MASK_RCNN = DEMO_CONFIGS / 'mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'
RETINANET = DEMO_CONFIGS / 'retinanet_r18-scratch_fpn_ubn_6e_shapes.py'
SHORT = [
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'train_cfg.max_epochs=1',
]

HOOKS = {'mbn': "custom_hooks = [dict(type='DoubleForwardHook')]\n"}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the demo's data where the configs look for it, but few."""
    folder = tmp_path_factory.mktemp('place')
    make_shapes(folder / 'data/shapes', num_train=6, num_val=2, image_size=64)
    return folder


def scalars(work_dir):
    [path] = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'tool'),
    [
        (MASK_RCNN, lambda name: ROOT / f'tools/{name}.py'),
        (RETINANET, lambda name: find_tool('mmdet', name)),
    ],
    ids=['ours', "MMDetection's"],
)
def test_training_and_testing_by_command_line(place, config, tool):
    work_dir = place / f'work_dirs/{config.stem}'
    options = ['--work-dir', work_dir, '--cfg-options', *SHORT]
    run(tool('train'), config, *options, cwd=place)
    assert any('loss' in record for record in scalars(work_dir))
    test = [tool('test'), config, work_dir / 'epoch_1.pth']
    assert 'Epoch(test) [' in run(*test, *options, cwd=place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('detector', 'preset'),
    [
        # Without a kernel and with one, starting small and as BatchNorm. Both detectors
        # are trained with UBN with the paper's initialisation above.
        ('mask-rcnn', 'bn-small'),
        ('retinanet', 'ubn-from-bn'),
        ('mask-rcnn', 'rbn'),
        ('retinanet', 'jsnorm'),
        ('mask-rcnn', 'l2bn'),
        ('mask-rcnn', 'mbn'),
    ],
)
def test_every_kind_of_norm_trains_in_the_demo(place, detector, preset):
    """In a detector's neighbourhood: in-place activations, sums, freezing, optimizer."""
    base = DEMO_CONFIGS / f'{detector}_r18-scratch_fpn_bn_6e_shapes.py'
    norm = ROOT / f'configs/_base_/norms/{preset}.py'
    config = place / f'{detector}_{preset}.py'
    config.write_text(
        f"_base_ = ['{base}', '{norm}']\n"
        'model = dict(backbone=dict(norm_cfg=dict(_delete_=True, **_base_.norm)))\n'
        + HOOKS.get(preset, '')
    )
    work_dir = place / 'work_dirs' / config.stem
    options = ['--work-dir', work_dir, '--cfg-options', *SHORT]
    run(ROOT / 'tools/train.py', config, *options, cwd=place)
    assert any('loss' in record for record in scalars(work_dir))
