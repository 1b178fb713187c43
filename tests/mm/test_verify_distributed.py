"""What ranks compute otherwise than one process is found and named."""

import json
from contextlib import closing

import pytest
from helpers.commands import ROOT, run

from ubn_mmdet.mm.verify_distributed import (
    Case,
    first_differences,
    verify,
    write_traces,
)
from ubn_mmdet.rank_processes import RankError

TOOL = ROOT / 'tools/verify_distributed.py'
DEMO = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'

# A BatchNorm of all ranks that can forget a part of what makes it one.
FORGETFUL = """
import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from torch import nn
from torch.distributed.nn.functional import all_reduce

@MODELS.register_module()
class Forgetful(nn.BatchNorm2d):
    def __init__(self, channels, forgets, **settings):
        super().__init__(channels, **settings)
        self.forgets = forgets

    def forward(self, x):
        if self.forgets == 'all' and dist.is_initialized() and dist.get_rank() == 1:
            raise RuntimeError('forgot everything')
        dims = 0, 2, 3
        count = x.new_full((1,), x.numel() / x.shape[1])
        own = torch.cat([x.sum(dims), x.square().sum(dims), count])
        sums = all_reduce(own.clone()) if dist.is_initialized() else own
        if self.forgets == 'statistics':
            sums = own
        if self.forgets == 'gradient':
            sums = own + (sums - own).detach()
        mean, var = self.moments(sums)
        moved = self.moments(own if self.forgets == 'buffers' else sums)
        for average, value in zip((self.running_mean, self.running_var), moved):
            average.data.lerp_(value.detach(), self.momentum)
        mean, var, weight, bias = (
            t[:, None, None] for t in (mean, var, self.weight, self.bias)
        )
        return weight * (x - mean) * torch.rsqrt(var + self.eps) + bias

    def moments(self, sums):
        mean, squares = (sums[:-1] / sums[-1]).chunk(2)
        return mean, squares - mean.square()
"""
SMALL = f"""
_base_ = '{DEMO}'
custom_imports = dict(imports=['ubn_mmdet', 'forgetful'])
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16))
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The path of a small detector's config, which knows the norm above."""
    (tmp_path / 'forgetful.py').write_text(FORGETFUL)
    (tmp_path / 'small.py').write_text(SMALL)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / 'small.py'


def forgetting(what):
    """Options of a config: the norm above, in the backbone."""
    norm = 'model.backbone.norm_cfg'
    return {f'{norm}.type': 'Forgetful', f'{norm}.forgets': what}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('forgets', 'first'),
    [
        ('nothing', []),
        # The mean of the images is what the first norm sees, and all behind it.
        (
            'statistics',
            [
                ('output', 'backbone.bn1'),
                ('gradient', 'bbox_head.retina_reg.weight'),
                ('buffer', 'backbone.bn1.running_mean'),
            ],
        ),
        # Backward comes to the last norm first; its own parameters' gradients are right.
        ('gradient', [('gradient', 'backbone.layer4.1.conv2.weight')]),
        ('buffers', [('buffer', 'backbone.bn1.running_mean')]),
    ],
)
def test_what_a_norm_forgets_to_merge_is_named(small, forgets, first):
    with closing(verify(small, ranks=2, options=forgetting(forgets))) as verdicts:
        verdict = next(verdicts)  # on even batches
    found = first_differences(verdict)
    assert [(d['kind'], d['name']) for d in found] == first
    assert all(d['relative'] > 1e-3 for d in found)
    assert verdict['is_equal'] == (not first)
    assert verdict['norms'] == 20
    assert verdict['unreached'] == verdict['exempt'] == []


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_work(small):
    with pytest.raises(RankError, match='even images: rank 1 failed: ') as error:
        next(verify(small, ranks=2, options=forgetting('all')))
    assert 'RuntimeError: forgot everything' in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['ubn', 'bn-merged'])
def test_ours_passes_in_every_case(small, norm):
    """Those with padding, too, from a detector that leaves it out."""
    config = small.with_name('ours.py')
    config.write_text(
        f"_base_ = ['small.py', '{ROOT}/configs/_base_/norms/{norm}.py']\n"
        "model = dict(data_preprocessor=dict(type='PaddingAware'), backbone=dict("
        'norm_cfg=dict(_delete_=True, **_base_.norm)))'
    )
    out = small.with_name('verdicts.json')
    printed = run(TOOL, config, '--out', out, cwd=small.parent, path=str(small.parent))
    assert printed.strip().endswith('3 ranks compute what one process does.')
    cases = json.loads(out.read_text())['cases']
    assert {case['case']['name']: case['case']['images'] for case in cases} == {
        'even': [2, 2, 2],
        'uneven': [1, 2, 3],
        'padded': [2, 2, 2],
        'empty': [0, 2, 2],
    }
    for case in cases:
        assert case['is_equal'] and case['largest'] < 1e-9
        assert min(case['compared'].values()) > 60
        assert len(case['exempt']) == (20 if norm == 'ubn' else 0)


@pytest.mark.slow
def test_local_statistics_of_batchnorm_end_the_tool_with_status_1(small):
    printed = run(
        TOOL, small, '--ranks', 2, cwd=small.parent, ok=False, path=str(small.parent)
    )
    assert 'even, 2 + 2 images: DIFFERS; 20 norm layers in training' in printed
    assert 'first output of backbone.bn1 (BatchNorm2d), by 0.' in printed


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'ranks': 1}, 'ranks must be a positive integer >= 2, got 1'),
        ({'image_size': 50}, 'image_size must be a multiple of 32, got 50'),
        ({'options': {'model.backbone.norm_eval': True}}, 'no norm layer in training'),
    ],
)
def test_what_cannot_be_compared_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        next(verify(DEMO, **settings))


@pytest.mark.slow
def test_heads_and_backbones_out_of_the_ordinary(tmp_path):
    case = Case('even', (2,), [(64, 64)] * 2)
    config = tmp_path / 'config.py'
    base = 'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py'
    config.write_text(f"_base_ = 'mmdet::{base}'\n")
    write_traces(None, tmp_path, config, None, [case])
    assert list(tmp_path.glob('even*'))
    base = 'tridentnet/tridentnet_r50-caffe_1x_coco.py'
    config.write_text(f"_base_ = 'mmdet::{base}'\n")
    with pytest.raises(ValueError, match='maps of 6 samples from 2 images'):
        write_traces(None, tmp_path, config, None, [case])
