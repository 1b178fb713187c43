"""A detector is evaluated with its statistics and with precise ones."""

import re

import pytest
import torch
from helpers.commands import ROOT, run
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.precise import evaluate_precise

CONFIG = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'
TOOL = ROOT / 'tools/precise_statistics.py'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with little data where the config looks for it, and weights."""
    folder = tmp_path_factory.mktemp('place')
    make_shapes(folder / 'data/shapes', num_train=6, num_val=2, image_size=64)
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save({'state_dict': model.state_dict()}, folder / 'weights.pth')
    return folder


@pytest.mark.slow
def test_the_weights_with_precise_statistics_are_kept(place):
    options = ['--batches', '2', '--batch-size', '3', '--out', place / 'precise.pth']
    options += ['--cfg-options', f'val_evaluator.outfile_prefix={place / "found"}']
    printed = run(TOOL, CONFIG, place / 'weights.pth', *options, cwd=place)
    assert not list(place.glob('found*'))
    assert re.search(r'^coco/bbox_mAP( +-?\d\.\d{3}){2}$', printed, re.MULTILINE)
    before = torch.load(place / 'weights.pth')['state_dict']
    after = torch.load(place / 'precise.pth')['state_dict']
    assert before.keys() == after.keys()
    running = {name for name in before if '.running_' in name}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == running


def test_what_cannot_be_done_is_refused_before_work_begins(place, monkeypatch):
    monkeypatch.chdir(place)
    weights = place / 'weights.pth'
    with pytest.raises(FileExistsError, match='weights.pth exists already'):
        evaluate_precise(CONFIG, weights, place / 'logs', out=weights)
    for name in 'batches', 'batch_size':
        with pytest.raises(
            ValueError, match=f'{name} must be a positive integer, got 0'
        ):
            evaluate_precise(CONFIG, weights, place / 'logs', **{name: 0})
    with pytest.raises(ValueError, match='40 batches of 8 are 320 images, .* has 6'):
        evaluate_precise(CONFIG, weights, place / 'logs')
