"""The sweep over MMDetection's detectors tells equal from different, and goes on."""

import json
import os
from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.ops import nms
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict

from ubn_mmdet.mm.sweep import compare, configs, run
from ubn_mmdet.mm.sweep.double import double_precision
from ubn_mmdet.mm.sweep.table import write_table
from ubn_mmdet.mm.sweep.verdict import COMPARED, verdict
from ubn_mmdet.records import RecordError

SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'
UBN = {'type': 'UBN'}
EQUAL = {
    **dict.fromkeys(COMPARED, 1e-14),
    **{'dtype': 'float64', 'swapped': 20, 'kept': 0, 'frozen': 20, 'fixed': 5},
}


@pytest.fixture(scope='module', autouse=True)
def mmdet_modules():
    register_all_modules()


def test_every_folder_with_configs_has_one_that_is_there():
    chosen = configs.families(SHIPPED)
    assert {'faster_rcnn', 'retinanet', 'yolox'} <= set(chosen)
    assert '_base_' not in chosen
    assert all(path.is_file() for path in chosen.values())
    assert chosen['atss'].name == 'atss_r50_fpn_1x_coco.py'


def test_nothing_is_downloaded_and_proposals_are_few():
    model = configs.small_model(SHIPPED / 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    assert 'Pretrained' not in str(model)
    assert model.train_cfg.rcnn.sampler.num == 32
    assert model.test_cfg.rpn.nms_pre == 100
    assert model.test_cfg.rcnn.score_thr == 0
    assert configs.num_classes(model) == 80


def test_a_folder_without_detectors_has_no_model(tmp_path):
    (tmp_path / 'data.py').write_text('dataset_type = "CocoDataset"\n')
    assert configs.small_model(tmp_path / 'data.py') is None
    with pytest.raises(compare.NotSwept, match='no model in the config'):
        compare.compare(tmp_path / 'data.py', UBN)


def test_written_and_silent_batchnorms_are_swapped_and_others_stay():
    model = ConfigDict(
        backbone=dict(type='ResNet', norm_cfg=dict(type='SyncBN', requires_grad=False)),
        neck=dict(type='YOLOXPAFPN'),
        head=[dict(type='FCOSHead', norm_cfg=dict(type='GN', num_groups=32))],
    )
    swapped = configs.with_norm(model, UBN)
    assert swapped.backbone.norm_cfg == {'type': 'UBN', 'requires_grad': False}
    # As YOLOXPAFPN's own default has it.
    assert swapped.neck.norm_cfg == {'type': 'UBN', 'momentum': 0.03, 'eps': 0.001}
    assert swapped['head'][0].norm_cfg.type == 'GN'
    assert 'norm_cfg' not in model.neck


def test_code_that_asks_for_float32_gets_float64_for_a_while():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5]])
    with double_precision():
        assert torch.zeros(2, dtype=torch.float32).dtype == torch.float64
        assert torch.zeros(2).float().dtype == torch.float64
        assert boxes.to(torch.float32).dtype == torch.float64
        detections, kept = nms(boxes.double(), torch.tensor([0.1, 0.2]), 0.5)
        assert detections.dtype == torch.float64 and kept.tolist() == [1]
    assert torch.zeros(2, dtype=torch.float32).dtype == torch.float32
    assert torch.zeros(2).float().dtype == torch.float32


@pytest.fixture
def retinanet(tmp_path) -> Path:
    """A small one, with a frozen backbone as mmdet's detectors have it."""
    path = tmp_path / 'mmdet/configs/retinanet/small.py'
    path.parent.mkdir(parents=True)
    path.write_text("""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    neck=dict(out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=4))
""")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ('norm', 'want'),
    [(UBN, 'same'), ({'type': 'UBN', 'eps': 1e-3}, 'differs')],
    ids=['UBN', 'another eps'],
)
def test_a_detector_is_the_same_with_ubn_and_differs_with_another_eps(
    retinanet, norm, want
):
    row = compare.compare(retinanet, norm)
    assert verdict(row) == want, row
    assert (row['dtype'], row['size']) == ('float64', 64)
    assert (row['swapped'], row['kept']) == (20, 0)
    assert (row['frozen'], row['fixed']) == (20, 5)  # norm_eval; stem and stage 1
    if want == 'differs':
        rounding = row['rounding']
        assert all(row[key] > 1e-6 > rounding[key] for key in COMPARED), rounding
        assert rounding['gradient'] > 0


@pytest.mark.parametrize('key', COMPARED)
def test_a_difference_of_any_kind_counts(key):
    assert verdict(EQUAL) == 'same'
    assert verdict(EQUAL | {key: 1e-5}) == 'differs'
    assert verdict(EQUAL | {key: float('inf')}) == 'differs'


def test_float32_is_allowed_its_rounding():
    assert verdict(EQUAL | {'dtype': 'float32', 'gradient': 1e-3}) == 'same'
    assert verdict(EQUAL | {'dtype': 'float32', 'gradient': 1e-1}) == 'differs'


def test_what_rounding_does_to_batchnorm_too_is_no_difference():
    small = dict.fromkeys(COMPARED, 1e-14)
    far = EQUAL | {'loss': 1e-3, 'prediction': float('inf')}
    assert verdict(far | {'rounding': small}) == 'differs'
    assert verdict(far | {'rounding': small | {'loss': 2e-5}}) == 'differs'
    as_far = small | {'loss': 2e-5, 'prediction': float('inf')}
    assert verdict(far | {'rounding': as_far}) == 'rounding'


def test_a_tensor_that_is_missing_reshaped_or_nan_is_no_small_difference():
    one = {'a': torch.ones(2)}
    assert compare.difference(one, {'a': torch.ones(2), 'b': torch.ones(1)}) == 0
    for other in ({}, {'a': torch.ones(3)}, {'a': torch.full((2,), torch.nan)}):
        assert compare.difference(one, other) == float('inf')
    rounding = {'a': torch.ones(1), 'zero': torch.full((1,), 1e-17)}
    assert compare.difference(rounding, rounding | {'zero': torch.zeros(1)}) < 1e-10
    bools = {'mask': torch.tensor([True, False])}
    assert compare.difference(bools, {'mask': torch.tensor([True, True])}) == 1


class TestRun:
    """The loop, with comparisons that cost nothing."""

    @pytest.fixture
    def rows(self, monkeypatch):
        """What the comparison of a config gives or raises; those asked for, in order."""
        asked = []
        found = {'atss': EQUAL, 'yolox': compare.NotSwept('no reason')}

        def alone(path, norm, seconds):
            asked.append(path.parent.name)
            result = found[path.parent.name]
            return {'skipped': str(result)} if isinstance(result, Exception) else result

        monkeypatch.setattr(run, '_alone', alone)
        return asked

    def test_a_second_call_goes_on_and_asks_again_where_told(self, rows, tmp_path):
        out = tmp_path / 'sweep.jsonl'
        assert run.sweep(out, 'UBN', ['atss'], False, 1) == 0
        assert run.sweep(out, 'UBN', ['atss', 'yolox'], False, 1) == 0
        assert rows == ['atss', 'yolox']
        run.sweep(out, 'UBN', ['atss', 'yolox'], True, 1)
        assert rows == ['atss', 'yolox', 'yolox']
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line.get('family') for line in lines] == [
            None,
            'atss',
            'yolox',
            'yolox',
        ]

    def test_another_norm_or_folder_is_refused(self, rows, tmp_path):
        out = tmp_path / 'sweep.jsonl'
        run.sweep(out, 'UBN', ['atss'], False, 1)
        with pytest.raises(RecordError, match="norm 'UBN' instead of 'RBN'"):
            run.sweep(out, 'RBN', ['atss'], False, 1)
        with pytest.raises(ValueError, match='no folder fcoss among '):
            run.sweep(out, 'UBN', ['fcoss'], False, 1)

    def test_the_table_has_what_was_swept_and_why_the_rest_was_not(
        self, rows, tmp_path
    ):
        out, page = tmp_path / 'sweep.jsonl', tmp_path / 'page.md'
        run.sweep(out, 'UBN', ['atss', 'yolox'], False, 1)
        places = 'sweep: summary', 'sweep', 'sweep: not swept'
        page.write_text(''.join(f'<!-- table: {p} -->\n<!-- end -->\n' for p in places))
        write_table(out, page)
        text = page.read_text()
        assert '1 of the 1 detectors' in text
        assert '| atss | atss_r50_fpn_1x_coco | 20 | 0 | 20 | 5 | float64 |' in text
        assert '| no reason | yolox |' in text


def test_a_crash_and_a_lack_of_time_end_one_detector_alone(monkeypatch):
    monkeypatch.setattr(compare, 'compare', lambda *_: os._exit(3))
    assert run._alone(Path(), UBN, 60) == {'failed': 'the process ended with 3'}
    monkeypatch.setattr(compare, 'compare', lambda *_: __import__('time').sleep(60))
    assert run._alone(Path(), UBN, 0.1)['skipped'].startswith('more than 0.00')
    monkeypatch.setattr(compare, 'compare', lambda *_: 1 / 0)
    assert run._alone(Path(), UBN, 60)['failed'].startswith('ZeroDivisionError')
