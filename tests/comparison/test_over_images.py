"""Intervals over images of a group's runs: computed, kept, and read again."""

import json
import shutil

import pytest
from helpers.results import (
    predictions,
    result,
    squares,
    write_results,
)

from ubn_mmdet.comparison.bootstrap import ImagesError, score
from ubn_mmdet.comparison.groups import read_groups
from ubn_mmdet.comparison.over_images import images_of
from ubn_mmdet.comparison.predictions_file import write_predictions

pytest.importorskip('hotcoco')
pytestmark = pytest.mark.slow

TRUTH = squares(12)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'instances_val.json').write_text(json.dumps(TRUTH))
    return tmp_path


def add_run(folder, norm, seed, error, **changes):
    found = predictions(TRUTH, error, seed)
    name = f'{norm}-{seed}/predictions.json.gz'
    write_predictions(folder / name, found)
    ap = score(TRUTH, found, 1).metrics['bbox_mAP']
    line = result(norm, seed, round(ap, 3), predictions=name, **changes)
    path = folder / 'results.jsonl'
    known = path.read_text().splitlines() if path.exists() else []
    write_results(path, [*map(json.loads, known), line])


def group_in(folder):
    (group,) = read_groups([folder / 'results.jsonl'])
    return group


def images_in(folder, baseline='BN', annotations=True):
    said = []
    path = folder / 'instances_val.json' if annotations else None
    return images_of(group_in(folder), baseline, path, said.append), said


@pytest.fixture
def two_norms(folder):
    for seed in (0, 1):
        add_run(folder, 'BN', seed, 0.15)
        add_run(folder, 'UBN', seed, 0.05)
    return folder


def test_norms_are_compared_with_the_baseline(two_norms):
    images, said = images_in(two_norms)
    assert said[0] == 'scoring the predictions of BN, seed 0'
    assert len(said) == 4
    assert images['images'] == 12
    assert images['differences'].keys() == {'UBN'}
    compared = images['differences']['UBN']['segm_mAP']
    low, high = compared['interval']
    assert 0 < low < compared['difference'] < high
    assert [(e['norm'], e['seed']) for e in images['errors']] == [
        ('BN', 0), ('BN', 1), ('UBN', 0), ('UBN', 1),
    ]  # fmt: skip


def test_they_are_kept_for_when_the_predictions_are_gone(two_norms):
    images, _ = images_in(two_norms)
    for seed in (0, 1):
        shutil.rmtree(two_norms / f'BN-{seed}')
        shutil.rmtree(two_norms / f'UBN-{seed}')
    again, said = images_in(two_norms, annotations=False)
    assert not said
    assert again.pop('settings') == group_in(two_norms).settings
    assert again.pop('baseline') == 'BN'
    assert again == images
    with pytest.raises(ImagesError, match='predictions of the runs are not at hand'):
        images_in(two_norms, baseline='UBN')


def test_a_new_run_is_scored_with_the_others(two_norms):
    images_in(two_norms)
    assert images_in(two_norms)[1] == []
    add_run(two_norms, 'UBN', 2, 0.05)
    images, said = images_in(two_norms)
    assert len(said) == len(images['runs']) == 5
    # What is kept is replaced, not added to.
    kept = json.loads((two_norms / 'results.images.json').read_text())
    assert len(kept) == 1


def test_what_is_kept_of_a_run_that_was_repeated_does_not_count(two_norms):
    images_in(two_norms)
    add_run(two_norms, 'UBN', 1, 0.05, config_hash='another')
    for name in ('BN-0', 'BN-1', 'UBN-0', 'UBN-1'):
        shutil.rmtree(two_norms / name)
    with pytest.raises(ImagesError, match='predictions of the runs are not at hand'):
        images_in(two_norms)


def test_what_is_kept_counts_while_some_predictions_are_gone(two_norms):
    images_in(two_norms)
    shutil.rmtree(two_norms / 'BN-0')
    images, said = images_in(two_norms)
    assert not said
    assert len(images['runs']) == 4


def test_another_baseline_destroys_nothing_that_is_kept(two_norms):
    first, _ = images_in(two_norms)
    shutil.rmtree(two_norms / 'BN-0')
    images, _ = images_in(two_norms, baseline='UBN')
    assert len(images['runs']) == 3 and images['differences'].keys() == {'BN'}
    again, said = images_in(two_norms)
    assert not said and again['runs'] == first['runs']
    assert images_in(two_norms, baseline='UBN')[1] == []


def test_runs_that_are_added_elsewhere_come_to_what_is_kept(two_norms):
    first, _ = images_in(two_norms)
    for name in ('BN-0', 'BN-1', 'UBN-0', 'UBN-1'):
        shutil.rmtree(two_norms / name)
    add_run(two_norms, 'BNET', 0, 0.05)
    add_run(two_norms, 'UBN', 2, 0.05)
    images, said = images_in(two_norms)
    assert len(said) == 2
    assert images['errors'][:4] == first['errors']
    added = [(e['norm'], e['seed']) for e in images['errors'][4:]]
    assert sorted(added) == [('BNET', 0), ('UBN', 2)]
    # The baseline's predictions are gone: what is known of UBN stays, of BNET nothing is.
    assert images['differences'] == {**first['differences'], 'BNET': {}}
    assert {tuple(run) for run in images['runs']} == {
        run.identity for run in group_in(two_norms).runs
    }
    again, said = images_in(two_norms, annotations=False)
    assert not said
    assert again['differences'] == images['differences']


def test_what_can_be_computed_anew_is(two_norms):
    first, _ = images_in(two_norms)
    shutil.rmtree(two_norms / 'UBN-0')
    for seed in (0, 1):
        add_run(two_norms, 'BNET', seed, 0.1)
    images, said = images_in(two_norms)
    assert len(said) == 5
    assert images['differences']['UBN'] == first['differences']['UBN']
    assert images['differences']['BNET']['bbox_mAP']['interval']
    assert len(images['errors']) == 6


def test_groups_of_one_file_are_kept_apart(two_norms):
    for norm in ('BN', 'UBN'):
        add_run(two_norms, norm, 5, 0.1, batch_size=2)
    path = two_norms / 'instances_val.json'
    for _ in range(2):
        for group in read_groups([two_norms / 'results.jsonl']):
            images = images_of(group, 'BN', path, lambda _: None)
            assert len(images['runs']) == len(group.runs)


def test_without_the_baseline_there_are_errors_alone(folder):
    add_run(folder, 'UBN', 0, 0.1)
    images, _ = images_in(folder)
    assert images['differences'] == {'UBN': {}}
    assert images['errors'][0]['bbox'].keys() == {
        'Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss',
    }  # fmt: skip


def test_the_runs_folder_says_where_the_annotations_are(two_norms):
    with pytest.raises(ImagesError, match='annotations .* are not at hand'):
        images_in(two_norms, annotations=False)
    specification = {'directory': str(two_norms), 'folder': {'root': '.'}}
    (two_norms / 'BN-0/run.json').write_text(json.dumps(specification))
    assert images_in(two_norms, annotations=False)[0]['images'] == 12


def test_other_annotations_are_noticed(two_norms):
    fewer = {**TRUTH, 'annotations': TRUTH['annotations'][::2]}
    (two_norms / 'instances_val.json').write_text(json.dumps(fewer))
    with pytest.raises(ImagesError, match=r'BN, seed 0: .* is recorded: these are not'):
        images_in(two_norms)


def test_broken_predictions_are_named(two_norms):
    (two_norms / 'UBN-1/predictions.json.gz').write_text('broken')
    with pytest.raises(
        ImagesError, match='UBN, seed 1: predictions.json.gz is damaged'
    ):
        images_in(two_norms)


def test_without_hotcoco_the_report_says_so(two_norms, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'hotcoco', None)
    with pytest.raises(ImagesError, match='pip install hotcoco'):
        images_in(two_norms)
