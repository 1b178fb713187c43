"""What runs recorded of condensation, in numbers and thinned maps."""

import json

import pytest
from helpers.results import condensation, result, write_results

from ubn_mmdet.comparison.condensation_maps import MAX_STEPS, condensation_of
from ubn_mmdet.comparison.groups import read_groups


def group_of(folder, **records):
    lines = []
    for name, record in records.items():
        norm, seed = name.split('_')
        run = folder / name
        run.mkdir(exist_ok=True)
        if record:
            (run / 'condensation.json').write_text(json.dumps(record))
        lines.append(
            result(norm, int(seed), 0.1, condensation=f'{name}/condensation.json')
        )
    (group,) = read_groups([write_results(folder / 'results.jsonl', lines)])
    return group


def test_a_summary_by_hand(tmp_path):
    record = {
        'layers': ['a', 'b'],
        'steps': [10, 20],
        'condensation': [[0.5, None], [0.1, 0.3]],
        'average': [[1.0, 0.2], [0.6, 0.4]],
        'gate': [[1, 1], [1, 0]],
        'shift': [[None, None], [None, None]],
    }
    (found,) = condensation_of(group_of(tmp_path, BN_0=record))
    assert found['summary'] == pytest.approx(
        {
            'mean_condensation': 0.3,
            'lowest_condensation': 0.1,
            'highest_condensation': 0.5,
            'lowest_average': 0.2,
            'closed': 0.25,
            'mean_shift': None,
        }
    )
    assert (found['norm'], found['seed']) == ('BN', 0)
    assert found['map'] == {k: v for k, v in record.items() if k != 'shift'}


def test_long_records_are_thinned_by_their_means(tmp_path):
    steps = 3 * MAX_STEPS
    record = {
        'layers': ['a'],
        'steps': list(range(1, steps + 1)),
        'condensation': [[float(i % 3)] for i in range(steps)],
        'gate': [[None] if i % 3 else [0.5] for i in range(steps)],
    }
    (found,) = condensation_of(group_of(tmp_path, BN_0=record))
    assert found['map']['steps'] == list(range(3, steps + 1, 3))
    assert found['map']['condensation'] == [[1.0]] * MAX_STEPS
    assert found['map']['gate'] == [[0.5]] * MAX_STEPS


def test_the_first_maps_of_each_norm_are_kept(tmp_path):
    record = condensation()
    group = group_of(tmp_path, BN_0=None, BN_1=record, BN_2=record, UBN_0=record)
    found = condensation_of(group)
    assert [(r['norm'], r['seed']) for r in found] == [('BN', 1), ('BN', 2), ('UBN', 0)]
    for path in tmp_path.glob('*/condensation.json'):
        path.unlink()
    again = condensation_of(group)
    assert [r['map'] is None for r in again] == [False, True, False]
    assert [r['summary'] for r in again] == [r['summary'] for r in found]
    assert again[0] == found[0]


def test_records_that_are_added_elsewhere_come_to_what_is_kept(tmp_path):
    record = condensation()
    first = condensation_of(group_of(tmp_path, BN_0=record, UBN_0=record))
    for path in tmp_path.glob('*/condensation.json'):
        path.unlink()
    runs = {'BN_0': None, 'BN_1': condensation(closed=True), 'UBN_0': None}
    group = group_of(tmp_path, **runs, BNET_0=record)
    found = condensation_of(group)
    assert [(r['norm'], r['seed']) for r in found] == [
        ('BN', 0), ('BN', 1), ('UBN', 0), ('BNET', 0),
    ]  # fmt: skip
    assert [found[0], found[2]] == first
    assert found[1]['summary']['closed'] == 1
    for path in tmp_path.glob('*/condensation.json'):
        path.unlink()
    again = condensation_of(group)
    assert [r['map'] is None for r in again] == [False, True, False, False]
    assert again == [{**found[1], 'map': None} if r is found[1] else r for r in found]


def test_without_records_there_is_nothing(tmp_path):
    assert condensation_of(group_of(tmp_path, BN_0=None)) == []


def test_a_record_without_a_step_is_none(tmp_path):
    [record] = condensation_of(
        group_of(tmp_path, BN_0=condensation(steps=0), BN_1=condensation())
    )
    assert record['seed'] == 1
