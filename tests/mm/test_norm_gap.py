"""A trained detector is evaluated with other statistics in its norm layers."""

import copy
import json

import pytest
import torch
from helpers.commands import ROOT, run
from helpers.layers import images, trained
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import METRICS
from mmengine.runner import Runner
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.norm_gap import (
    BatchStatisticsHook,
    Row,
    gap_table,
    norm_gap,
    rows,
)
from ubn_mmdet.records import RecordError

TOOL = ROOT / 'tools/norm_gap.py'
UBN_CONFIG = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'
# Norms in all components, no random flips, and a metric that every statistic changes.
SMALL = f"""
_base_ = '{UBN_CONFIG}'
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = loader
val_dataloader = loader
train_cfg = dict(max_epochs=1, val_interval=10)
param_scheduler = []
val_evaluator = dict(_delete_=True, type='MeanScore')
norm = dict(type='BN')
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=norm),
    bbox_head=dict(in_channels=16, feat_channels=16, norm_cfg=norm),
    test_cfg=dict(score_thr=0.0))
"""


@METRICS.register_module()
class MeanScore(BaseMetric):
    """The mean score of all detections."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results.append(
                sample['pred_instances']['scores'].double().mean().item()
            )

    def compute_metrics(self, results):
        return {'score': sum(results) / len(results)}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Data, the second validation image of which is half as high, and a detector."""
    folder = tmp_path_factory.mktemp('place')
    data = make_shapes(folder / 'data/shapes', num_train=8, num_val=2, image_size=64)
    listing = data / 'instances_val.json'
    content = json.loads(listing.read_text())
    small = content['images'][1]
    path = data / 'val' / small['file_name']
    Image.open(path).crop((0, 0, 64, 32)).save(path)
    small['height'] = 32
    listing.write_text(json.dumps(content))
    (folder / 'small.py').write_text(SMALL)
    cfg = Config.fromfile(folder / 'small.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        steps = loader.dataset.pipeline
        steps[:] = [step for step in steps if step['type'] != 'RandomFlip']
        for step in steps:
            if step['type'] == 'Resize':
                step['scale'] = (64, 64)
    cfg.dump(folder / 'small.py')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runner = built(folder)
        runner.train()
    torch.save({'state_dict': runner.model.state_dict()}, folder / 'trained.pth')
    return folder


def built(folder, options=None):
    """MMEngine's own runner of the detector."""
    register_all_modules()
    cfg = Config.fromfile(folder / 'small.py')
    cfg.merge_from_dict(options or {})
    cfg.work_dir = str(folder / 'work')
    return Runner.from_cfg(cfg)


@pytest.fixture
def scores(place, monkeypatch, tmp_path):
    """Evaluates with some settings: the mean score of each row."""
    monkeypatch.chdir(place)

    def evaluate(checkpoint='trained.pth', save_precise=None, **settings):
        given = {'batches': 2, 'batch_size': 2, **settings}
        out = tmp_path / f'{len(list(tmp_path.iterdir()))}.json'
        config = place / 'small.py'
        gaps = norm_gap(
            config, place / checkpoint, out, save_precise=save_precise, **given
        )
        return {row: metrics['score'] for row, metrics in gaps}

    return evaluate


@pytest.mark.slow
def test_every_component_and_every_statistic_counts(scores):
    found = scores()
    assert list(found) == rows(['backbone', 'neck', 'heads'])
    assert len(found) == len(set(found.values())) == 18


@pytest.mark.slow
def test_rows_are_what_one_would_compute_by_hand(scores, place):
    found = scores()
    runner = built(place)
    weights = torch.load(place / 'trained.pth')['state_dict']
    runner.model.load_state_dict(weights)
    close = {'rel': 1e-5}
    assert found[Row('counted', 'running', 'all')] == pytest.approx(
        runner.val()['score'], **close
    )
    [data] = runner.val_dataloader
    for prefix, component in {'': 'all', 'neck': 'neck', 'bbox': 'heads'}.items():
        runner.model.load_state_dict(weights)
        for name, layer in runner.model.eval().named_modules():
            if isinstance(layer, _BatchNorm) and name.startswith(prefix):
                layer.train()
        with torch.no_grad():
            predicted = runner.model.test_step(data)
        each = [s.pred_instances.scores.double().mean() for s in predicted]
        row = Row('counted', 'batch', component)
        assert found[row] == pytest.approx(sum(each).item() / 2, **close)


@pytest.mark.slow
def test_padding_is_left_out_of_batchnorm_too(scores, place):
    found = scores(statistics=['running'])
    merged = Config.fromfile(ROOT / 'configs/_base_/norms/bn-merged.py').norm
    runner = built(
        place,
        {
            'model.data_preprocessor.type': 'PaddingAware',
            'model.neck.norm_cfg': merged,
            'model.bbox_head.norm_cfg': merged,
        },
    )
    runner.load_checkpoint(str(place / 'trained.pth'), strict=True)
    left_out, counted = (Row(p, 'running', 'all') for p in ('left-out', 'counted'))
    assert found[left_out] == pytest.approx(runner.val()['score'], rel=1e-6)
    assert found[left_out] != pytest.approx(found[counted], rel=1e-4)


@pytest.mark.slow
def test_precise_weights_are_kept(scores, place):
    path = place / 'precise.pth'
    only = {'paddings': ['counted']}
    found = scores(save_precise=path, **only)
    again = scores('precise.pth', statistics=['running'], **only)
    running, precise = (Row('counted', s, 'all') for s in ('running', 'precise'))
    assert again[running] == found[precise] != found[running]
    before, after = torch.load(place / 'trained.pth'), torch.load(path)
    before, after = before['state_dict'], after['state_dict']
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if '.running_' in name}


@pytest.mark.slow
def test_the_tool_goes_on_where_it_stopped(place):
    command = TOOL, place / 'small.py', place / 'demo.pth', '--batch-size', 2
    torch.save(torch.load(place / 'trained.pth'), place / 'demo.pth')
    options = ['--statistics', 'running', 'batch', '--padding', 'counted']
    coco = 'val_evaluator.type=CocoMetric', 'val_evaluator.metric=bbox'
    coco += ('val_evaluator.ann_file=data/shapes/instances_val.json',)
    options += ['--cfg-options', *coco]
    printed = run(*command, *options, cwd=place)
    assert '| running | all |' in printed and '| batch | neck |' in printed
    out = place / 'demo.pth.norm_gap.json'
    content = json.loads(out.read_text())
    assert len(content['results']) == 5
    assert content['settings']['batch_size'] == 2
    content['results'][0]['metrics']['coco/bbox_mAP'] = 0.75
    del content['results'][-1]
    out.write_text(json.dumps(content))
    printed = run(*command, *options, cwd=place)
    assert '| running | all | 0.750 |' in printed
    assert len(json.loads(out.read_text())['results']) == 5
    others = [o.replace('counted', 'left-out') for o in options if o != 'batch']
    run(*command, *others, cwd=place)
    assert len(json.loads(out.read_text())['results']) == 6
    printed = run(*command, '--batches', 3, *options, cwd=place, ok=False)
    assert 'holds results with batches 40 instead of 3' in printed


def test_what_cannot_be_done_is_refused_before_work_begins(scores, place, tmp_path):
    taken = place / 'trained.pth'
    with pytest.raises(FileExistsError, match=r'trained\.pth exists already'):
        scores(save_precise=taken)
    for name in 'batches', 'batch_size':
        with pytest.raises(ValueError, match=f'{name} must be a positive integer'):
            scores(**{name: 0})
    with pytest.raises(ValueError, match="statistics must be 'running' or .*'last'"):
        scores(statistics=['last'])
    for kind, path in ('precise', None), ('running', place / 'new.pth'):
        with pytest.raises(ValueError, match='40 batches of 2 are 80 images, .* has 8'):
            scores(batches=40, statistics=[kind], save_precise=path)
    classes = {'model.data_preprocessor.type': ImgDataPreprocessor}
    with pytest.raises(ValueError, match='data preprocessor is ImgDataPreprocessor:'):
        scores(options=classes)
    still = {
        'model.backbone.norm_eval': True,
        'model.neck.norm_cfg': None,
        'model.bbox_head.norm_cfg': None,
    }
    with pytest.raises(ValueError, match=r'trained\.pth is not of this detector'):
        scores(options=still)
    spoilt = torch.load(taken)
    spoilt['state_dict']['backbone.bn1.weight'][0] = float('nan')
    torch.save(spoilt, tmp_path / 'spoilt.pth')
    with pytest.raises(ValueError, match=r'backbone\.bn1\.weight that are not finite'):
        scores(tmp_path / 'spoilt.pth')
    weights = {'state_dict': built(place, still).model.state_dict()}
    torch.save(weights, tmp_path / 'still.pth')
    with pytest.raises(ValueError, match='no norm layer whose statistics move'):
        scores(tmp_path / 'still.pth', options=still)
    (tmp_path / 'taken.json').write_text('[]')
    with pytest.raises(RecordError, match='holds something else'):
        next(norm_gap(place / 'small.py', taken, tmp_path / 'taken.json'))


def test_statistics_of_a_batch_leave_no_trace():
    layer, hook, x = trained().eval(), BatchStatisticsHook(), images(2, 3, 5, 5)
    hook.layers = [layer]
    before, evaluated = copy.deepcopy(layer.state_dict()), layer(x)
    hook.before_val_iter(None)
    in_training = layer(x)
    assert not torch.equal(layer.running_mean, before['running_mean'])
    hook.after_val_iter(None)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(layer(x), evaluated, rtol=0, atol=0)
    assert not torch.allclose(in_training, evaluated)


def test_an_input_norm_has_no_statistics_of_a_batch_in_evaluation():
    found = rows(['data_preprocessor', 'backbone'], ['precise', 'batch'], ['counted'])
    assert [tuple(row)[1:] for row in found] == [
        *(('precise', part) for part in ('all', 'data_preprocessor', 'backbone')),
        *(('batch', part) for part in ('all', 'backbone')),
    ]


def test_the_logs_of_a_training_in_the_same_process_stay_as_they_are(scores, place):
    before = {p: p.read_bytes() for p in (place / 'work').rglob('*') if p.is_file()}
    for _ in range(2):  # each in a folder that is gone afterwards
        scores(statistics=['running'], paddings=['counted'])
    logs = {p: content for p, content in before.items() if 'vis_data' in p.parts}
    assert logs
    assert all(path.read_bytes() == content for path, content in logs.items())


def test_a_single_component_has_no_rows_of_its_own():
    assert rows(['backbone'], paddings=['counted']) == [
        Row('counted', kind, 'all') for kind in ('running', 'precise', 'batch')
    ]


def test_the_table_says_how_far_each_is_from_running_statistics():
    def metrics(value):
        return {'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 0.9}

    gaps = {
        Row('counted', 'running', 'all'): metrics(0.1),
        Row('counted', 'precise', 'all'): metrics(0.155),
        Row('left-out', 'running', 'all'): metrics(0.125),
        Row('left-out', 'batch', 'all'): {},
    }
    assert gap_table(gaps).splitlines()[2:] == [
        '| running | all | 0.100 | 0.125 |',
        '| precise | all | 0.155 (+0.055) | |',
        '| batch | all | | nothing found |',
    ]
    nothing = gap_table({Row('left-out', 'batch', 'all'): {}})
    assert nothing.endswith('| batch | all | nothing found |')
