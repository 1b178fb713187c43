"""Loss and AP of a run that was interrupted, from the toolbox's logs."""

import json

from ubn_mmdet.comparison.results import read_scalars


def write_log(work_dir, name, records):
    path = work_dir / name / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, records)) + '\n{"loss": 1.0, "st')


def test_a_resumed_run_is_read_as_one(tmp_path):
    before = [
        {'loss': 3.0, 'step': 10},
        {'coco/bbox_mAP': 0.1, 'step': 1},
        {'condensation/bn1': 0.3, 'step': 10},  # what a hook says
        {'loss': 9.0, 'step': 20},
        {'loss': 9.0, 'step': 30},  # lost by the kill, and not yet done again
    ]
    write_log(tmp_path, '20260101_000000', before)
    after = [{'loss': 2.0, 'step': 20}, {'coco/bbox_mAP': 0.2, 'step': 2}]
    write_log(tmp_path, '20260102_000000', after)
    training, evaluation = read_scalars(tmp_path)
    assert {step: record['loss'] for step, record in training.items()} == {10: 3, 20: 2}
    assert [r['coco/bbox_mAP'] for r in evaluation.values()] == [0.1, 0.2]
