"""Tables, logs and pictures."""

import json

import numpy as np
from PIL import Image

from ubn_mmdet.comparison.report.coco_table import coco_table
from ubn_mmdet.comparison.report.draw_detections import (
    DetectedImage,
    Instances,
    draw_detections,
)
from ubn_mmdet.comparison.report.text import count
from ubn_mmdet.comparison.training.logs import read_scalars

KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def test_the_table_has_boxes_and_masks_of_every_norm():
    bn = {f'bbox_{key}': 0.1 * i for i, key in enumerate(KEYS)}
    bn |= {f'segm_{key}': -1.0 for key in KEYS}
    ubn = {key: value + 0.05 for key, value in bn.items()}
    assert coco_table({'BN': bn, 'UBN': ubn}).splitlines() == [
        '| | norm | AP | AP50 | AP75 | APs | APm | APl |',
        '|---|---|---:|---:|---:|---:|---:|---:|',
        '| box | BN | 0.000 | 0.100 | 0.200 | 0.300 | 0.400 | 0.500 |',
        '| box | UBN | 0.050 | 0.150 | 0.250 | 0.350 | 0.450 | 0.550 |',
        '| mask | BN | – | – | – | – | – | – |',
        '| mask | UBN | – | – | – | – | – | – |',
    ]


def test_a_detector_without_masks_has_one_row():
    assert len(coco_table({'BN': {'bbox_mAP': 0.5}}).splitlines()) == 3


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

    def draw(name, **rows):
        path = tmp_path / f'{name}.png'
        draw_detections([DetectedImage(grey, rows)], ('a', 'b'), path)
        return path

    blue = (67, 99, 216)  # the colour of the second class
    some = draw('some', truth=nothing, BN=nothing, UBN=truth)
    none = draw('none', truth=nothing, BN=nothing)
    assert blue in colours(some) and blue not in colours(none)
    assert Image.open(some).height > 1.3 * Image.open(none).height


def test_counts_of_one_are_singular():
    assert count(1, 'seed') == '1 seed' and count(2, 'seed') == '2 seeds'
    assert (
        count(1, 'class', 'es') == '1 class' and count(2, 'class', 'es') == '2 classes'
    )
