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


def mmdets_own(name):
    return find_tool('mmdet', name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'tool'),
    [
        (MASK_RCNN, lambda name: ROOT / f'tools/{name}.py'),
        (RETINANET, mmdets_own),
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
        ('retinanet', 'bn'),
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


@pytest.mark.slow
def test_a_config_of_ones_own_with_mmdets_own_tool(place):
    """The README's recipe: no file of this project but the installed package."""
    config = place / 'my_config.py'
    config.write_text(f"""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['ubn_mmdet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        norm_cfg=dict(type='UBN', requires_grad=True),
        norm_eval=False,
        frozen_stages=-1,
        init_cfg=None))
data = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{place}/data/shapes/',
        metainfo=dict(classes=('ellipse', 'rectangle', 'triangle', 'star'))))
train_dataloader = dict(
    **data | dict(dataset=dict(data['dataset'],
        ann_file='instances_train.json', data_prefix=dict(img='train/'))))
val_dataloader = dict(
    **data | dict(dataset=dict(data['dataset'],
        ann_file='instances_val.json', data_prefix=dict(img='val/'))))
val_evaluator = dict(ann_file='{place}/data/shapes/instances_val.json')
train_cfg = dict(max_epochs=1)
""")
    work_dir = place / 'work_dirs/mine'
    output = run(
        find_tool('mmdet', 'train'), config, '--work-dir', work_dir,
        '--cfg-options', 'train_pipeline.2.scale=(64,64)',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)', cwd=place,
    )  # fmt: skip
    assert 'Epoch(val) [1]' in output and (work_dir / 'epoch_1.pth').exists()
