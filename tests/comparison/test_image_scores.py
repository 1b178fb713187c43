"""Scores of predictions, intervals over images, and what is kept of them."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
from helpers.results import predictions, result, squares, write_results

from ubn_mmdet.comparison.image_scores import (
    ScoringError,
    over_images,
    random_halves,
    score,
    scores_of_runs,
)
from ubn_mmdet.comparison.predictions import coco_metrics, write_predictions
from ubn_mmdet.comparison.results import read_groups

hotcoco = pytest.importorskip('hotcoco')

TRUTH = squares(40)
FEW = squares(12)


def without_masks(found):
    return [{k: v for k, v in p.items() if k != 'segmentation'} for p in found]


def test_ap_is_that_of_pycocotools(tmp_path):
    found = predictions(TRUTH, 0.1, seed=0)
    (tmp_path / 'val.json').write_text(json.dumps(TRUTH))
    expected = coco_metrics(tmp_path / 'val.json', found, ['bbox', 'segm'])
    scores = score(TRUTH, found, halves=2)
    for kind in ('bbox', 'segm'):
        assert scores[kind]['AP'] == pytest.approx(expected[f'{kind}_mAP'], rel=1e-9)


def test_a_half_is_scored_as_its_images_alone():
    found = predictions(TRUTH, 0.1, seed=0)
    half = set(random_halves([image['id'] for image in TRUTH['images']], 3)['2'])
    assert len(half) == 20
    truth = {
        **TRUTH,
        'images': [image for image in TRUTH['images'] if image['id'] in half],
        'annotations': [a for a in TRUTH['annotations'] if a['image_id'] in half],
    }
    alone = score(truth, [p for p in found if p['image_id'] in half], 1)
    for kind, scores in score(TRUTH, found, 3).items():
        assert scores['halves'][2] == pytest.approx(alone[kind]['AP'], abs=1e-5)


def test_halves_are_the_same_for_the_same_images():
    assert random_halves([3, 1, 2, 4], 5) == random_halves([4, 3, 2, 1], 5)
    halves = random_halves(list(range(10)), 50).values()
    assert all(len(set(half)) == 5 for half in halves)
    assert len({tuple(sorted(half)) for half in halves}) > 30
    assert set(random_halves([7], 2)['0']) == {7}


def bootstrap_by_copies(models, resamples):
    """AP of each model on resamples as the textbook draws them.

    Each image is there many times under ids of its own; a resample that draws it m times
    takes m of them.
    """
    images = len(TRUTH['images'])
    rng = np.random.default_rng(1)
    counts = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
    copies = range(counts.max())

    def copied(items, key):
        ids = {'id': len(items)} if key == 'image_id' else {}
        return [
            {
                **item,
                key: item[key] + c * images,
                **{k: item[k] + c * n for k, n in ids.items() if k in item},
            }
            for c in copies
            for item in items
        ]

    truth = hotcoco.COCO(
        {
            'images': copied(TRUTH['images'], 'id'),
            'annotations': copied(TRUTH['annotations'], 'image_id'),
            'categories': TRUTH['categories'],
        }
    )
    slices = {
        str(i): [1 + j + c * images for j in range(images) for c in range(row[j])]
        for i, row in enumerate(counts)
    }
    aps = []
    for found in models:
        evaluation = hotcoco.COCOeval(
            truth, truth.load_res(copied(without_masks(found), 'image_id')), 'bbox'
        )
        evaluation.evaluate()
        sliced = evaluation.slice_by(slices)
        aps.append(np.array([sliced[i]['AP'] for i in slices]))
    return aps


@pytest.mark.slow
def test_the_spread_is_that_of_the_bootstrap_and_not_that_of_hotcoco():
    models = [predictions(TRUTH, error, seed=0) for error in (0.1, 0.13)]
    a, b = (score(TRUTH, found, 1000)['bbox']['halves'] for found in models)
    ours = np.std(np.array(b) - np.array(a))
    a, b = bootstrap_by_copies(models, 1000)
    textbook = (b - a).std()
    truth = hotcoco.COCO(TRUTH)
    evaluations = []
    for found in models:
        boxes = truth.load_res(without_masks(found))
        evaluations.append(hotcoco.COCOeval(truth, boxes, 'bbox'))
        evaluations[-1].evaluate()
    theirs = hotcoco.compare(*evaluations, n_bootstrap=1000)['ci']['AP']['std_err']
    assert ours == pytest.approx(textbook, rel=0.1)
    assert theirs * math.sqrt(math.e - 1) == pytest.approx(textbook, rel=0.1)
    assert theirs < 0.85 * textbook


def test_errors_cost_what_they_spoil():
    right = [
        {'score': 0.9, **{k: a[k] for k in ('image_id', 'category_id', 'bbox')}}
        for a in TRUTH['annotations']
    ]
    assert sum(score(TRUTH, right, 1)['bbox']['errors'].values()) == 0
    seen = score(TRUTH, right[::2], 1)['bbox']['errors']
    assert max(seen, key=seen.get) == 'Miss'
    swapped = [{**p, 'category_id': 3 - p['category_id']} for p in right]
    confused = score(TRUTH, swapped, 1)['bbox']['errors']
    assert max(confused, key=confused.get) == 'Cls'


def test_boxes_alone_have_no_scores_of_masks():
    found = without_masks(predictions(TRUTH, 0.1, seed=0))
    assert score(TRUTH, found, 1).keys() == {'bbox'}


def test_intervals_by_hand():
    def run(*halves):
        return {'halves': list(halves)}

    # Halves of the means: 0.5 and 1.5; 2 and 5. Their differences deviate by 1.
    low, high = over_images(0.5, [run(0, 1), run(1, 2)], [run(2, 5)])
    assert (low, high) == pytest.approx((0.5 - 1.959964, 0.5 + 1.959964))
    assert over_images(0.5, [], [run(2, 5)]) is None


def test_what_is_no_prediction_is_refused():
    with pytest.raises(ScoringError, match="cannot read the predictions: 'score'"):
        score(TRUTH, [{'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 1, 1]}])


def test_a_model_that_finds_nothing_scores_nothing():
    scores = score(TRUTH, [], halves=2)
    assert [scores[kind]['AP'] for kind in ('bbox', 'segm')] == [0, 0]


# --- what is kept ---------------------------------------------------------------------


def add_run(folder, norm, seed, error, **changes):
    found = predictions(FEW, error, seed)
    name = f'{norm}-{seed}/predictions.json.gz'
    write_predictions(folder / name, found)
    ap = {f'{k}_mAP': round(s['AP'], 3) for k, s in score(FEW, found, 1).items()}
    line = result(norm, seed, 0.1, predictions=name, **ap, **changes)
    path = folder / 'results.jsonl'
    known = path.read_text().splitlines() if path.exists() else []
    write_results(path, [*map(json.loads, known), line])


def scores_in(folder, annotations=True):
    said = []
    path = folder / 'instances_val.json' if annotations else None
    (group,) = read_groups([folder / 'results.jsonl'])
    found, note = scores_of_runs(group, path, said.append)
    return found, note, said


@pytest.fixture
def two_norms(tmp_path):
    (tmp_path / 'instances_val.json').write_text(json.dumps(FEW))
    for seed in (0, 1):
        add_run(tmp_path, 'BN', seed, 0.15)
        add_run(tmp_path, 'UBN', seed, 0.05)
    return tmp_path


def test_runs_are_scored_and_kept_for_when_predictions_are_gone(two_norms):
    found, note, said = scores_in(two_norms)
    assert said[0] == 'scoring the predictions of BN, seed 0' and len(said) == 4
    assert found.keys() == {('BN', 0), ('BN', 1), ('UBN', 0), ('UBN', 1)} and not note
    # One by one: none counts for what is missing of another.
    shutil.rmtree(two_norms / 'BN-0')
    assert scores_in(two_norms) == (found, '', [])
    for name in ('BN-1', 'UBN-0', 'UBN-1'):
        shutil.rmtree(two_norms / name)
    assert scores_in(two_norms, annotations=False) == (found, '', [])
    # Runs that are added elsewhere come to it.
    add_run(two_norms, 'BNET', 0, 0.05)
    more, _, said = scores_in(two_norms)
    assert said == ['scoring the predictions of BNET, seed 0']
    assert more.pop(('BNET', 0)) and more == found


def test_runs_of_several_files_are_kept_beside_their_own(tmp_path):
    folders = tmp_path / 'a', tmp_path / 'b'
    for folder, norm in zip(folders, ('BN', 'UBN'), strict=True):
        folder.mkdir()
        (folder / 'instances_val.json').write_text(json.dumps(FEW))
        add_run(folder, norm, 0, 0.1)
        scores_in(folder)
        shutil.rmtree(folder / f'{norm}-0')
    (group,) = read_groups([folder / 'results.jsonl' for folder in folders])
    found, note = scores_of_runs(group, None, print)
    assert found.keys() == {('BN', 0), ('UBN', 0)} and not note


def test_what_is_kept_of_a_run_that_was_repeated_does_not_count(two_norms):
    scores_in(two_norms)
    add_run(two_norms, 'UBN', 1, 0.05, config_hash='another')
    shutil.rmtree(two_norms / 'UBN-1')
    found, note, _ = scores_in(two_norms)
    assert ('UBN', 1) not in found
    assert note == 'The predictions of 3 of 4 runs are available.'


def test_nor_does_what_is_kept_of_a_run_on_another_device(two_norms):
    scores_in(two_norms)
    path = two_norms / 'results.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]['bbox_mAP'] -= 0.1
    write_results(path, lines)
    shutil.rmtree(two_norms / 'UBN-1')
    assert ('UBN', 1) not in scores_in(two_norms)[0]


def test_one_image_says_nothing_of_others():
    same = [{'halves': [0.3, 0.3]}]
    assert over_images(0.1, same, [{'halves': [0.4, 0.4]}]) is None


def test_the_runs_folder_says_where_the_annotations_are(two_norms):
    _, note, _ = scores_in(two_norms, annotations=False)
    assert note.startswith('BN, seed 0: the annotations') and 'not available' in note
    specification = {'folder': {'root': str(two_norms)}}
    for name in ('BN-0', 'BN-1', 'UBN-0', 'UBN-1'):
        (two_norms / name / 'run.json').write_text(json.dumps(specification))
    assert len(scores_in(two_norms, annotations=False)[0]) == 4


def test_other_annotations_are_noticed(two_norms):
    fewer = {**FEW, 'annotations': FEW['annotations'][::2]}
    (two_norms / 'instances_val.json').write_text(json.dumps(fewer))
    found, note, _ = scores_in(two_norms)
    assert not found and note.startswith('BN, seed 0: ')
    assert 'these are not the annotations' in note


def test_broken_predictions_are_named(two_norms):
    (two_norms / 'UBN-1/predictions.json.gz').write_text('broken')
    found, note, _ = scores_in(two_norms)
    assert 'UBN, seed 1: predictions.json.gz is damaged' in note and len(found) == 3


def test_without_hotcoco_the_report_says_so(two_norms, monkeypatch):
    monkeypatch.setitem(sys.modules, 'hotcoco', None)
    assert 'pip install hotcoco' in scores_in(two_norms)[1]


def test_classifiers_have_none(tmp_path):
    line = {k: v for k, v in result('BN', 0, 0.1).items() if 'mAP' not in k}
    write_results(tmp_path / 'results.jsonl', [line | {'accuracy_top1': 20.0}])
    assert scores_in(tmp_path, annotations=False) == ({}, '', [])
