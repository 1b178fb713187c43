"""The sweep over MMDetection's detectors tells equal from different, and goes on."""

import json
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.ops import nms
from mmdet.utils import register_all_modules

from benchmarks import sweep
from benchmarks import sweep_compare as compare
from benchmarks import sweep_detectors as detectors
from benchmarks.reporting import read_results
from benchmarks.sweep import COMPARED, tables, verdict
from ubn_mmdet.records import RecordError

SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'
UBN = {'type': 'UBN'}
EQUAL = {
    **dict.fromkeys(COMPARED, 1e-14),
    **{'dtype': 'float64', 'swapped': 20, 'kept': 0, 'config': 'atss_r50.py'},
}


@pytest.fixture(scope='module', autouse=True)
def mmdet_modules():
    register_all_modules()


def test_every_folder_with_configs_has_one_that_is_there():
    chosen = detectors.families(SHIPPED)
    assert {'faster_rcnn', 'retinanet', 'yolox'} <= set(chosen)
    assert '_base_' not in chosen
    assert all(path.is_file() for path in chosen.values())
    assert chosen['atss'].name == 'atss_r50_fpn_1x_coco.py'


def test_nothing_is_downloaded_and_proposals_are_few():
    model = detectors.small_model(
        SHIPPED / 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    )
    assert 'Pretrained' not in str(model)
    assert model.train_cfg.rcnn.sampler.num == 32
    assert model.test_cfg.rpn.nms_pre == 100
    assert model.test_cfg.rcnn.score_thr == 0
    assert detectors.num_classes(model) == 80


def test_a_folder_without_detectors_has_no_model(tmp_path):
    (tmp_path / 'data.py').write_text('dataset_type = "CocoDataset"\n')
    assert detectors.small_model(tmp_path / 'data.py') is None
    row = compare.compare(tmp_path / 'data.py', UBN)
    assert row == {'skipped': 'no model in the config'}


def test_code_that_asks_for_float32_gets_float64_for_a_while():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5]])
    with detectors.double_precision():
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
    def asked(self, monkeypatch):
        """Folders whose comparison was asked for, in order."""
        asked = []
        found = {
            'atss': EQUAL,
            'yolof': {**EQUAL, 'kept': 14},
            'yolox': {'skipped': 'no reason'},
        }

        def alone(path):
            asked.append(path.parent.name)
            return found[path.parent.name]

        monkeypatch.setattr(sweep, 'compare_alone', alone)
        return asked

    def test_a_second_call_goes_on(self, asked, tmp_path):
        out = tmp_path / 'sweep.jsonl'
        assert sweep.sweep(out, ['atss']) == 0
        assert sweep.sweep(out, ['atss', 'yolox']) == 0
        assert asked == ['atss', 'yolox']

    def test_other_versions_and_folders_that_are_not_there_are_refused(
        self, asked, tmp_path, monkeypatch
    ):
        out = tmp_path / 'sweep.jsonl'
        sweep.sweep(out, ['atss'])
        with pytest.raises(ValueError, match='no folder fcoss among '):
            sweep.sweep(out, ['fcoss'])
        monkeypatch.setattr(mmdet, '__version__', '9.9')
        with pytest.raises(RecordError, match="mmdet .* instead of '9.9'"):
            sweep.sweep(out, ['atss'])

    def test_the_tables_have_what_was_swept_and_why_the_rest_was_not(
        self, asked, tmp_path
    ):
        sweep.sweep(tmp_path / 'sweep.jsonl', ['atss', 'yolof', 'yolox'])
        record, rows = read_results(tmp_path / 'sweep.jsonl')
        found = tables(record, rows['detectors'])
        assert '2 of the 2 detectors' in found['summary']
        same, table, skipped = found['detectors'].split('\n\n')
        assert same.endswith('replaced: atss.')
        assert '| yolof | atss_r50 | 20 | 14 | float64 | 1e-14 |' in table
        assert skipped.endswith('with BatchNorm: yolox.')


def test_a_crash_and_a_lack_of_time_end_one_detector_alone():
    def alone(code, **more):
        return sweep.compare_alone(
            Path('a.py'), command=[sys.executable, '-c', code], **more
        )

    assert alone('import os; os._exit(3)') == {
        'config': 'a.py',
        'failed': 'the process ended with 3',
    }
    slow = alone('import time; time.sleep(60)', seconds=0.1)
    assert slow['skipped'].startswith('more than 0.00')
    row = alone('print("noise"); print(\'{"loss": Infinity}\')')
    assert row == {'config': 'a.py', 'loss': float('inf')}


def test_what_goes_wrong_with_the_norm_is_said_in_a_row(monkeypatch, capsys):
    monkeypatch.setattr(compare, 'compare', lambda path, norm: 1 / 0)
    compare.main('a.py')
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row == {'failed': 'ZeroDivisionError: division by zero'}


def test_a_detector_that_does_not_run_with_batchnorm_is_skipped(monkeypatch, retinanet):
    monkeypatch.setattr(compare, '_outcomes', lambda *_: 1 / 0)
    row = compare.compare(retinanet, UBN)
    assert row == {'skipped': 'ZeroDivisionError: division by zero'}
