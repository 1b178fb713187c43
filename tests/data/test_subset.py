"""A fixed part of a folder."""

import json
import shutil
from collections import Counter

import pytest

from ubn_mmdet.data.coco_folder import CocoFolder, annotation_file, make_subset
from ubn_mmdet.data.shapes import make_shapes


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    return CocoFolder.open(make_shapes(folder / 's', num_train=12, num_val=6))


def content(folder, split):
    return json.loads((folder / annotation_file(split)).read_bytes())


def test_the_most_frequent_classes_stay(source, tmp_path):
    part = CocoFolder.open(make_subset(source, tmp_path / 'part', classes=2))
    whole = content(source.root, 'train')
    names = {c['id']: c['name'] for c in whole['categories']}
    counts = Counter(a['category_id'] for a in whole['annotations'])
    common = {names[category] for category, _ in counts.most_common(2)}
    assert set(part.classes) == common
    for split in ('train', 'val'):
        found = content(part.root, split)
        assert {a['image_id'] for a in found['annotations']} == {
            image['id'] for image in found['images']
        }
    assert (part.root / 'train').resolve() == (source.root / 'train').resolve()


def test_fewer_images_and_always_the_same(source, tmp_path):
    one, two = (
        make_subset(source, tmp_path / name, train_images=5) for name in ('one', 'two')
    )
    part = CocoFolder.open(one)
    assert part.num_images == {'train': 5, 'val': 6}
    assert content(one, 'train') == content(two, 'train')


def test_images_are_those_of_the_folder_that_is_asked_for(source, tmp_path):
    part = make_subset(source, tmp_path / 'part', train_images=5)
    other = tmp_path / 'moved'
    shutil.copytree(source.root, other)
    make_subset(CocoFolder.open(other), part, train_images=5)
    assert (part / 'train').resolve() == other / 'train'


def test_asking_for_too_much(source, tmp_path):
    with pytest.raises(ValueError, match='cannot keep 5 classes: there are 4'):
        make_subset(source, tmp_path / 'a', classes=5)
    with pytest.raises(
        ValueError, match='cannot keep 13 training images: there are 12'
    ):
        make_subset(source, tmp_path / 'b', train_images=13)
