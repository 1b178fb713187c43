"""A classifier's accuracy, and its intervals over images."""

import numpy as np
import pytest
from helpers.results import result, write_results

from ubn_mmdet.comparison.accuracy import score
from ubn_mmdet.comparison.bootstrap import ImagesError
from ubn_mmdet.comparison.groups import read_groups
from ubn_mmdet.comparison.over_images import images_of
from ubn_mmdet.comparison.predictions_file import write_predictions

IMAGES, CLASSES = 400, 8


def predictions(share, seed):
    """Of a model that has the truth first in about this share of the images."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(IMAGES):
        truth = i % CLASSES
        others = rng.permutation([c for c in range(CLASSES) if c != truth])
        place = 0 if rng.random() < share else int(rng.integers(1, CLASSES))
        classes = np.insert(others, place, truth)[:5].tolist()
        found.append({'image': f'{truth}/{i}.png', 'truth': truth, 'classes': classes})
    return found


def hits(found, k):
    return np.array([p['truth'] in p['classes'][:k] for p in found])


def test_accuracy_is_the_share_of_images_in_percent():
    found = predictions(0.5, seed=0)
    scores = score(found, resamples=4)
    assert scores.images == IMAGES and scores.errors == {}
    for k in 1, 5:
        assert scores.metrics[f'accuracy_top{k}'] == 100 * hits(found, k).mean()
        assert scores.halves[f'accuracy_top{k}'].shape == (4,)
    assert 40 < scores.metrics['accuracy_top1'] < 60 < scores.metrics['accuracy_top5']


def test_the_order_of_predictions_does_not_matter():
    found = predictions(0.5, seed=0)
    ours, theirs = score(found, 10), score(found[::-1], 10)
    np.testing.assert_array_equal(
        ours.halves['accuracy_top1'], theirs.halves['accuracy_top1']
    )
    assert len(set(ours.halves['accuracy_top1'])) > 3


@pytest.mark.parametrize('broken', [[{'image': 'a'}], [{'image_id': 1}], [3]])
def test_what_is_no_classification_is_refused(broken):
    with pytest.raises(ImagesError, match='no predictions of a classifier'):
        score(broken)


def add_runs(folder, recorded=None):
    models = {'BN': predictions(0.4, seed=1), 'UBN': predictions(0.6, seed=2)}
    lines = []
    for norm, found in models.items():
        name = f'{norm}/predictions.json.gz'
        write_predictions(folder / name, found)
        top1 = 100 * hits(found, 1).mean() if recorded is None else recorded
        lines.append(result(norm, 0, 0.1, predictions=name, accuracy_top1=top1))
        for key in list(lines[-1]):
            if key.startswith(('bbox', 'segm')):
                del lines[-1][key]
    [group] = read_groups([write_results(folder / 'results.jsonl', lines)])
    return group, models


def test_the_interval_is_that_of_a_paired_difference_of_shares(tmp_path):
    group, models = add_runs(tmp_path)
    images = images_of(group, 'BN', say=lambda _: None)
    assert images['images'] == IMAGES
    compared = images['differences']['UBN']['accuracy_top1']
    paired = hits(models['UBN'], 1) * 1.0 - hits(models['BN'], 1)
    assert compared['difference'] == pytest.approx(100 * paired.mean())
    low, high = compared['interval']
    textbook = 2 * 1.96 * 100 * paired.std() / np.sqrt(IMAGES)
    assert high - low == pytest.approx(textbook, rel=0.1)
    assert low < compared['difference'] < high


def test_predictions_of_another_run_are_noticed(tmp_path):
    group, _ = add_runs(tmp_path, recorded=99.0)
    with pytest.raises(
        ImagesError, match=r'accuracy_top1 .* and 99.000 is recorded: .* of another run'
    ):
        images_of(group, 'BN', say=lambda _: None)
