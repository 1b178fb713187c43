"""The generated data set."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ubn_mmdet.data.coco_folder import CocoFolder
from ubn_mmdet.data.shapes import CLASSES, draw_image, make_shapes
from ubn_mmdet.records import RecordError

SMALL = {'num_train': 4, 'num_val': 2, 'image_size': 64, 'progress': lambda _: None}


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*.*'))
    }


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), **SMALL)


def test_the_same_arguments_draw_the_same_bytes(drawn, tmp_path):
    assert digests(make_shapes(tmp_path / 'again', **SMALL)) == digests(drawn)


def test_an_image_does_not_depend_on_how_many_there_are(drawn, tmp_path):
    more = make_shapes(tmp_path, **SMALL | {'num_train': 6})
    for name in ('000000.png', '000003.png'):
        ours, theirs = drawn / 'train' / name, more / 'train' / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_another_seed_or_split_draws_other_images():
    first, *_ = draw_image(0, 'train', 0, 64)
    for seed, split in (1, 'train'), (0, 'val'):
        other, *_ = draw_image(seed, split, 0, 64)
        assert not np.array_equal(first, other)


def test_the_json_says_exactly_what_was_drawn(drawn):
    assert CocoFolder.open(drawn).classes == CLASSES
    coco = COCO(drawn / 'instances_train.json')
    for index, image_id in enumerate(sorted(coco.imgs)):
        pixels, labels, masks = draw_image(0, 'train', index, 64)
        path = drawn / 'train' / coco.imgs[image_id]['file_name']
        assert np.array_equal(np.asarray(Image.open(path)), pixels)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [a['category_id'] - 1 for a in annotations] == labels
        for annotation, mask in zip(annotations, masks, strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask)
            ys, xs = np.nonzero(mask)
            x, y, w, h = annotation['bbox']
            assert (x, y) == (xs.min(), ys.min())
            assert (x + w, y + h) == (xs.max() + 1, ys.max() + 1)
            assert annotation['area'] == mask.sum()


def test_shapes_cover_each_other_and_stay_visible():
    images = [draw_image(0, 'train', index, 160) for index in range(20)]
    for _, _, masks in images:
        assert masks.sum(axis=0).max() <= 1  # visible pixels: disjoint
        assert all(mask.any() for mask in masks)
    assert {label for _, labels, _ in images for label in labels} == {0, 1, 2, 3}


def test_a_finished_folder_is_left_alone(drawn):
    before = digests(drawn)
    said = []
    make_shapes(drawn, **SMALL | {'progress': said.append})
    assert digests(drawn) == before
    assert said == [f'{drawn} already holds this data set']


def test_an_interrupted_drawing_is_finished(drawn, tmp_path):
    folder = make_shapes(tmp_path / 'shapes', **SMALL)
    (folder / 'instances_val.json').unlink()
    (folder / 'val/000001.png').unlink()
    make_shapes(folder, **SMALL)
    assert digests(folder) == digests(drawn)


def test_a_folder_with_something_else_is_refused(drawn, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(RecordError, match='something else.*thesis.tex'):
        make_shapes(tmp_path, **SMALL)
    with pytest.raises(RecordError, match='seed 0 instead of 1'):
        make_shapes(drawn, **SMALL, seed=1)
    assert json.loads((drawn / 'shapes.json').read_text())['seed'] == 0


@pytest.mark.parametrize(
    'wrong', [{'num_train': 0}, {'num_val': -1}, {'image_size': 32}, {'seed': -1}]
)
def test_senseless_arguments_raise_before_anything_is_drawn(wrong, tmp_path):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f'{name} must be .* got {value}'):
        make_shapes(tmp_path / 'shapes', **SMALL | wrong)
    assert not (tmp_path / 'shapes').exists()
