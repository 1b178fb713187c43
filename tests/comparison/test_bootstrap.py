"""Scores of predictions and intervals over images."""

import contextlib
import io
import math

import numpy as np
import pytest
from helpers.results import predictions, squares

from ubn_mmdet.comparison.bootstrap import (
    ImagesError,
    Scores,
    compare,
    random_halves,
    score,
)

hotcoco = pytest.importorskip('hotcoco')

TRUTH = squares(40)


def pycocotools_stats(truth, found, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


def test_the_metrics_are_those_of_pycocotools():
    found = predictions(TRUTH, 0.1, seed=0)
    metrics = score(TRUTH, found, resamples=2).metrics
    for kind, drop in {'bbox': 'segmentation', 'segm': 'bbox'}.items():
        alone = [{k: v for k, v in p.items() if k != drop} for p in found]
        expected = pycocotools_stats(TRUTH, alone, kind)
        names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
        ours = [metrics[f'{kind}_{name}'] for name in names]
        assert min(ours) > 0
        assert len(set(ours)) == 6
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_a_half_is_scored_as_its_images_alone():
    found = predictions(TRUTH, 0.1, seed=0)
    half = set(random_halves([image['id'] for image in TRUTH['images']], 3)['2'])
    assert len(half) == 20
    truth = {
        **TRUTH,
        'images': [image for image in TRUTH['images'] if image['id'] in half],
        'annotations': [a for a in TRUTH['annotations'] if a['image_id'] in half],
    }
    alone = score(truth, [p for p in found if p['image_id'] in half], 1).metrics
    halves = score(TRUTH, found, 3).halves
    for metric, value in alone.items():
        assert halves[metric][2] == pytest.approx(value)


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
        boxes = [{k: v for k, v in p.items() if k != 'segmentation'} for p in found]
        evaluation = hotcoco.COCOeval(
            truth, truth.load_res(copied(boxes, 'image_id')), 'bbox'
        )
        evaluation.evaluate()
        sliced = evaluation.slice_by(slices)
        aps.append(np.array([sliced[i]['AP'] for i in slices]))
    return aps


def test_the_spread_is_that_of_the_bootstrap_and_not_that_of_hotcoco():
    models = [predictions(TRUTH, error, seed=0) for error in (0.1, 0.13)]
    a, b = (score(TRUTH, found) for found in models)
    ours = (b.halves['bbox_mAP'] - a.halves['bbox_mAP']).std()
    a, b = bootstrap_by_copies(models, 1000)
    textbook = (b - a).std()
    truth = hotcoco.COCO(TRUTH)
    evaluations = []
    for found in models:
        boxes = [{k: v for k, v in p.items() if k != 'segmentation'} for p in found]
        evaluations.append(hotcoco.COCOeval(truth, truth.load_res(boxes), 'bbox'))
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
    assert sum(score(TRUTH, right, 1).errors['bbox'].values()) == 0
    seen = score(TRUTH, right[::2], 1).errors['bbox']
    assert max(seen, key=seen.get) == 'Miss'
    swapped = [{**p, 'category_id': 3 - p['category_id']} for p in right]
    confused = score(TRUTH, swapped, 1).errors['bbox']
    assert max(confused, key=confused.get) == 'Cls'


def test_boxes_alone_have_no_mask_metrics():
    found = [
        {k: v for k, v in p.items() if k != 'segmentation'}
        for p in predictions(TRUTH, 0.1, seed=0)
    ]
    scores = score(TRUTH, found, 1)
    assert {name.split('_')[0] for name in scores.metrics} == {'bbox'}
    assert scores.errors.keys() == {'bbox'}


def scores_of(point, halves):
    return Scores({'bbox_mAP': point}, {'bbox_mAP': np.array(halves)}, {}, 2)


def test_intervals_by_hand():
    steps = np.linspace(0, 1, 1001)
    # The halves of one seed differ by 0 to 1, those of the other by 0.25.
    baseline = [scores_of(0.5, np.zeros(1001)), scores_of(0.75, steps)]
    other = [scores_of(1, steps), scores_of(1, steps + 0.25)]
    (found,) = compare(baseline, other).values()
    assert found['difference'] == 0.375
    assert found['interval'] == pytest.approx([0.375 - 0.2375, 0.375 + 0.2375])
    # Norms need not have as many seeds.
    (found,) = compare(baseline[:1], other).values()
    assert found['difference'] == 0.5


def test_without_scores_nothing_is_compared():
    assert compare([], [scores_of(0.1, [0.1])]) == {}


def test_what_many_halves_do_not_know_has_no_interval():
    nan = float('nan')
    a = [scores_of(0.1, [0.1] * 20)]
    (found,) = compare(a, [scores_of(0.2, [0.2] * 18 + [nan] * 2)]).values()
    assert (found['difference'], found['interval']) == (0.1, None)
    (found,) = compare(a, [scores_of(0.2, [0.2] * 19 + [nan])]).values()
    assert found['interval'] == pytest.approx([0.1, 0.1])
    (found,) = compare(a, [scores_of(nan, [nan] * 20)]).values()
    assert (found['difference'], found['interval']) == (None, None)


def test_what_is_no_prediction_is_refused():
    with pytest.raises(ImagesError, match="cannot read the predictions: 'score'"):
        score(TRUTH, [{'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 1, 1]}])


def test_a_model_that_finds_nothing_scores_nothing():
    scores = score(TRUTH, [], resamples=2)
    assert len(scores.metrics) == 12
    assert not any(scores.metrics.values())
