"""Tables, curves and pictures."""

import json

import numpy as np
from PIL import Image

from ubn_mmdet.evidence.report.curves import draw_curves, read_scalars
from ubn_mmdet.evidence.report.pictures import Instances, Pictured, draw_pictures
from ubn_mmdet.evidence.report.table import coco_table

KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def test_the_table_has_boxes_and_masks():
    metrics = {f'coco/bbox_{key}': 0.1 * i for i, key in enumerate(KEYS)}
    metrics |= {f'coco/segm_{key}': -1.0 for key in KEYS}
    assert coco_table(metrics).splitlines() == [
        '| | AP | AP50 | AP75 | APs | APm | APl |',
        '|---|---:|---:|---:|---:|---:|---:|',
        '| box | 0.000 | 0.100 | 0.200 | 0.300 | 0.400 | 0.500 |',
        '| mask | – | – | – | – | – | – |',
    ]


def test_a_detector_without_masks_has_one_row():
    assert len(coco_table({'coco/bbox_mAP': 0.5}).splitlines()) == 3


def write_log(work_dir, name, records):
    path = work_dir / name / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, records)) + '\n{"loss": 1.0, "st')


def resumed_run(work_dir):
    write_log(
        work_dir,
        '20260101_000000',
        [
            {'loss': 3.0, 'step': 10},
            {'coco/bbox_mAP': 0.1, 'step': 1},
            {'condensation/bn1': 0.3, 'step': 10},  # what a hook says
            {'loss': 9.0, 'step': 20},
            {'loss': 9.0, 'step': 30},  # lost by the kill, and not yet done again
        ],
    )
    write_log(
        work_dir,
        '20260102_000000',
        [{'loss': 2.0, 'step': 20}, {'coco/bbox_mAP': 0.2, 'step': 2}],
    )
    return work_dir


def test_a_resumed_run_is_read_as_one(tmp_path):
    training, evaluation = read_scalars(resumed_run(tmp_path))
    assert {step: record['loss'] for step, record in training.items()} == {10: 3, 20: 2}
    assert [r['coco/bbox_mAP'] for r in evaluation.values()] == [0.1, 0.2]


def colours(path):
    return {
        tuple(c) for c in np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    }


def test_curves_of_several_runs(tmp_path):
    run = resumed_run(tmp_path / 'run')
    draw_curves({'BN': run, 'UBN': run}, tmp_path / 'two.png')
    draw_curves({'BN': run}, tmp_path / 'one.png')
    second = (255, 127, 14)  # the second colour of the default cycle
    assert second in colours(tmp_path / 'two.png')
    assert second not in colours(tmp_path / 'one.png')


def test_pictures_show_what_was_found(tmp_path):
    mask = np.zeros((1, 20, 20), dtype=bool)
    mask[0, 5:15, 5:15] = True
    truth = Instances(
        labels=np.array([1]), boxes=np.array([[5, 5, 15, 15]]), masks=mask
    )
    nothing = Instances(
        labels=np.zeros(0, dtype=int), boxes=np.zeros((0, 4)), scores=np.zeros(0)
    )
    grey = np.full((20, 20, 3), 128, dtype=np.uint8)
    draw_pictures([Pictured(grey, truth, nothing)], ('a', 'b'), tmp_path / 'some.png')
    draw_pictures([Pictured(grey, nothing, nothing)], ('a', 'b'), tmp_path / 'none.png')
    blue = (67, 99, 216)  # the colour of the second class
    assert blue in colours(tmp_path / 'some.png')
    assert blue not in colours(tmp_path / 'none.png')
