"""The paper's experiment in miniature: from images to detectors, end to end."""

import json
import os

import pytest
import torch
from helpers.commands import ROOT, run
from helpers.pretraining import PYTHONPATH, needs_mmpretrain

from ubn_mmdet.comparison import results
from ubn_mmdet.data.shapes import make_shapes

TOOLS = ROOT / 'tools'
# Without git it is this code that runs, not that of the last commit.
ALONE = {'path': PYTHONPATH, 'PATH': ''}

pytestmark = [pytest.mark.slow, needs_mmpretrain]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with data where the configs look for them, but few."""
    folder = tmp_path_factory.mktemp('place')
    shapes = make_shapes(folder / 'data/shapes', num_train=10, num_val=4, image_size=64)
    for name in 'imagenet', 'crops':
        target = folder / 'data' / name
        run(TOOLS / 'make_crops.py', shapes, target, '--size', '32', cwd=folder)
    return folder


def compare(place, name, fields):
    """The results of a comparison that is written down here."""
    path = place / f'{name}.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in fields.items()))
    run(TOOLS / 'compare_norms.py', path, '--jobs', '2', cwd=place, **ALONE)
    lines = results.read(place / f'work_dirs/comparisons/{name}/results.jsonl')
    assert all(line['status'] == results.FINISHED for line in lines)
    return {line['norm']: line for line in lines}


def backbone(path):
    """The backbone's weights and statistics in a checkpoint."""
    state = torch.load(path, weights_only=False)['state_dict']
    prefix = 'backbone.'
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def started_from(name, path):
    start = {
        '_delete_': True,
        'type': 'Pretrained',
        'prefix': 'backbone.',
        'checkpoint': str(path),
    }
    return {'name': name, 'options': {'model.backbone.init_cfg': start}}


def assert_protocol(before, after):
    """Statistics, gates, stem and first stage are pre-training's; the rest learns."""
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learning = {k for k in before if k.startswith(('layer2.', 'layer3.', 'layer4.'))}
    kept = ('running_mean', 'running_var', 'num_batches_tracked', 'condensation')
    assert changed and changed <= {k for k in learning if not k.endswith(kept)}
    assert 'layer4.0.conv1.weight' in changed


def test_pre_training_detection_and_results(place):
    data = [
        'train_dataloader.batch_size=8',
        'train_dataloader.dataset.pipeline.1.scale=32',
        'val_dataloader.dataset.pipeline.1.scale=36',
        'val_dataloader.dataset.pipeline.2.crop_size=32',
        'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0',
    ]
    weights = {}
    for norm in 'bn', 'ubn':
        config = ROOT / f'configs/pretrain/resnet50_{norm}_8xb32_in1k.py'
        run(
            TOOLS / 'pretrain.py', config, '--no-pin-memory', '--no-persistent-workers',
            '--cfg-options', 'train_cfg.max_epochs=1', *data,
            cwd=place, path=PYTHONPATH,
        )  # fmt: skip
        weights[norm] = place / f'work_dirs/{config.stem}/epoch_1.pth'
        [log] = weights[norm].parent.glob('*/vis_data/scalars.json')
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert any('accuracy/top1' in record for record in records)
    assert backbone(weights['ubn']).keys() > backbone(weights['bn']).keys()

    # The toolbox's own commands, for one detector.
    stem = 'faster-rcnn_r50_fpn_ubn_1x_coco'
    config = ROOT / f'configs/protocol/{stem}.py'
    smaller = [
        f'model.backbone.init_cfg.checkpoint={weights["ubn"]}',
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        # A warm-up by a rate for one GPU would not reach every weight.
        'auto_scale_lr.enable=False',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)',
    ]
    for loader, split in ('train', 'train'), ('val', 'val'), ('test', 'val'):
        prefix = f'{loader}_dataloader'
        classes = 'ellipse,rectangle,triangle,star'
        smaller += [
            f'{prefix}.num_workers=0',
            f'{prefix}.persistent_workers=False',
            f'{prefix}.dataset.data_root=data/shapes/',
            f'{prefix}.dataset.metainfo.classes={classes}',
            f'{prefix}.dataset.ann_file=instances_{split}.json',
            f'{prefix}.dataset.data_prefix.img={split}/',
        ]
        if loader != 'train':
            annotations = f'data/shapes/instances_{split}.json'
            smaller.append(f'{loader}_evaluator.ann_file={annotations}')
    run(TOOLS / 'train.py', config, '--cfg-options', *smaller, cwd=place)
    trained = place / f'work_dirs/{stem}/epoch_1.pth'
    assert_protocol(backbone(weights['ubn']), backbone(trained))
    tested = run(
        TOOLS / 'test.py', config, trained, '--cfg-options', *smaller, cwd=place
    )
    assert 'Epoch(test) [' in tested

    fields = {
        'data': 'data/shapes',
        'detector': 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py',
        'image_size': (96, 64),
        'epochs': 3,  # as many as two decays need
        'batch_size': 2,
        # The full rate, in earnest.
        'options': {'auto_scale_lr.base_batch_size': 2},
        'groups': [
            {
                'norms': [
                    started_from(norm.upper(), path.relative_to(place))
                    for norm, path in weights.items()
                ],
                'seeds': [0],
            }
        ],
    }
    lines = compare(place, 'protocol', fields)
    assert lines.keys() == {'BN', 'UBN'}
    for norm, line in lines.items():
        assert {'bbox_mAP', 'segm_mAP'} <= line.keys()
        final = place / 'work_dirs/comparisons/protocol' / line['checkpoint']
        assert_protocol(backbone(weights[norm.lower()]), backbone(final))

    file = 'work_dirs/comparisons/protocol/results.jsonl'
    run(TOOLS / 'report_norms.py', file, '--out', 'report', cwd=place)
    assert '| UBN | box AP |' in (place / 'report/report.md').read_text()


def test_the_miniature(place):
    pretraining = {
        'data': 'data/crops',
        'detector': 'pretrain/resnet18_bn_1xb64_crops.py',
        'image_size': 32,
        'epochs': 4,  # as many as three decays need
        'batch_size': 8,
        'groups': [{'norms': ['BN', 'UBN'], 'seeds': [0]}],
    }
    lines = compare(place, 'first', pretraining)
    assert lines.keys() == {'BN', 'UBN'}
    file = place / 'work_dirs/comparisons/first/results.jsonl'
    run(TOOLS / 'report_norms.py', file, '--out', 'first', cwd=place)
    assert '| UBN | top-1, % |' in (place / 'first/report.md').read_text()
    weights = {}
    for norm, line in lines.items():
        assert len(line['curves']['accuracy_top1']) == 4
        assert line['curves']['accuracy_top1'][-1] == line['accuracy_top1']
        assert line['classes'] == 4 and line['versions'].keys() >= {'mmpretrain'}
        weights[norm] = f'work_dirs/comparisons/first/{line["checkpoint"]}'

    detection = {
        'data': 'data/shapes',
        'detector': 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
        'image_size': 64,
        'epochs': 1,
        'batch_size': 2,
        'groups': [{'norms': [started_from('UBN', weights['UBN'])], 'seeds': [0]}],
        'options': {
            'model.backbone.norm_eval': True,
            'model.backbone.frozen_stages': 1,
        },
    }
    [line] = compare(place, 'second', detection).values()
    final = place / 'work_dirs/comparisons/second' / line['checkpoint']
    assert_protocol(backbone(place / weights['UBN']), backbone(final))

    # Another norm's weights in the same place do not pass.
    os.replace(place / weights['BN'], place / weights['UBN'])
    refused = run(
        *(TOOLS / 'compare_norms.py', place / 'second.py'), cwd=place, ok=False, **ALONE
    )
    assert 'lacks centering_weight' in refused
