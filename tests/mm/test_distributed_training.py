"""Detectors train on several processes through the command lines."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT
from pycocotools.coco import COCO

from ubn_mmdet.data.shapes import make_shapes

DEMO = ROOT / 'configs/demo/mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'
INSTANCES = 4

# Saves each rank's model before and after training.
SNAPSHOTS = """
import os
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Snapshots(Hook):
    def save(self, runner, when):
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        rank = os.environ.get('RANK', '0')
        torch.save(model.state_dict(), f'{runner.work_dir}/{when}-{rank}.pth')

    def before_train(self, runner):
        self.save(runner, 'before')

    def after_train(self, runner):
        self.save(runner, 'after')
"""

# So that ranks and one process do the same but for rounding: nothing is drawn at random,
# and what a loss is divided by is the same for each image. All anchors and all RoIs count;
# the truth alone is positive among RoIs, and its number is equal.
EVEN = f"""
_base_ = '{DEMO}'
custom_imports = dict(imports=['ubn_mmdet', 'snapshots'])
custom_hooks = [dict(type='Snapshots')]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = loader
val_dataloader = loader
train_cfg = dict(max_epochs=1)
param_scheduler = []
model = dict(
    backbone=dict(norm_cfg=dict(condensation_feature='pooled')),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=1000000)),
        rpn_proposal=dict(max_per_img=20),
        rcnn=dict(
            sampler=dict(num=1000000),
            assigner=dict(pos_iou_thr=0.99, neg_iou_thr=0.99, min_pos_iou=0.99))))
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with four training images of four instances each."""
    folder = tmp_path_factory.mktemp('place')
    (folder / 'snapshots.py').write_text(SNAPSHOTS)
    (folder / 'even.py').write_text(EVEN)
    data = make_shapes(folder / 'data/shapes', num_train=40, num_val=2, image_size=96)
    path = data / 'instances_train.json'
    coco = COCO(path)
    even = [i for i in coco.imgs if len(coco.getAnnIds(i)) == INSTANCES][:4]
    assert len(even) == 4
    content = json.loads(path.read_text())
    content['images'] = coco.loadImgs(even)
    content['annotations'] = coco.loadAnns(coco.getAnnIds(even))
    path.write_text(json.dumps(content))
    return folder


def free_port():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        return str(taken.getsockname()[1])


def train(place, command, name, batch_size):
    work_dir = place / name
    options = [
        '--cfg-options',
        'train_dataloader.dataset.pipeline.3.prob=0.0',  # of flipping
        f'train_dataloader.batch_size={batch_size}',
    ]
    done = subprocess.run(
        [*map(str, command), '--work-dir', work_dir, *options],
        cwd=place,
        env=os.environ
        | {
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'PYTHONPATH': f'{ROOT}:{place}',
            'OMP_NUM_THREADS': '1',
            'PORT': free_port(),  # other processes train beside this one
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-9000:]
    return work_dir


def snapshot(work_dir, when, rank):
    return torch.load(work_dir / f'{when}-{rank}.pth', weights_only=True)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_with_the_double_batch(place):
    script = ROOT / 'tools/dist_train.sh'
    two = train(place, [script, 'even.py', 2], 'two', batch_size=2)
    first, second = (snapshot(two, 'after', rank) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)

    one = train(
        place, ['python', ROOT / 'tools/train.py', 'even.py'], 'one', batch_size=4
    )
    before, after = snapshot(one, 'before', 0), snapshot(one, 'after', 0)
    torch.testing.assert_close(snapshot(two, 'before', 0), before, rtol=0, atol=0)
    for name, value in after.items():
        step = (value - before[name]).double()
        difference = (first[name] - value).double()
        # A ReLU whose input is zero but for rounding may be open here and closed there:
        # one of them makes 1% of a small layer's gradient.
        assert difference.norm() <= 0.03 * step.norm() + 1e-6, name
    moved = [
        name for name, value in after.items() if not torch.equal(value, before[name])
    ]
    assert any('running_var' in name for name in moved)
    assert any('condensation' in name for name in moved)
    assert any('spatial_weight' in name for name in moved)
