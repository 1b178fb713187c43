"""Crops of annotated objects: which, of what, and how they are listed."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from ubn_mmdet.data.coco_folder import CocoFolder, annotation_file
from ubn_mmdet.data.image_folder import ImageFolder, ImageFolderError, make_crops
from ubn_mmdet.records import RecordError

GREY = (124, 116, 104)
# id, category, box, crowd: in an image of 40 x 30 pixels.
OBJECTS = [
    (1, 7, (10, 5, 20, 20), 0),
    (2, 5, (0, 0, 20, 10), 0),
    (3, 7, (0, 0, 40, 9), 0),  # too low
    (4, 7, (0, 0, 30, 30), 1),  # a crowd
    (5, 7, (20, 10, 20, 20), 0),
    (6, 7, (8, 8, 10, 10), 0),
]
CATEGORIES = [(5, 'traffic light'), (3, 'never seen'), (7, 'cat')]


def silent(_):
    pass


@pytest.fixture
def source(tmp_path):
    """Red where x < 20, blue elsewhere; the second class has no object."""
    root = tmp_path / 'source'
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:, 2] = 255
    for split in ('train', 'val'):
        (root / split).mkdir(parents=True)
        Image.fromarray(pixels).save(root / split / 'a.png')
        content = {
            'images': [{'id': 1, 'file_name': 'a.png', 'width': 40, 'height': 30}],
            'annotations': [
                {
                    'id': i,
                    'image_id': 1,
                    'category_id': category,
                    'bbox': list(box),
                    'segmentation': [[0, 0, 9, 0, 9, 9]],
                    'area': 1,
                    'iscrowd': crowd,
                }
                for i, category, box, crowd in OBJECTS
            ],
            'categories': [{'id': i, 'name': name} for i, name in CATEGORIES],
        }
        (root / annotation_file(split)).write_text(json.dumps(content))
    return CocoFolder.open(root)


def crops(source, folder, **options):
    options = {'size': 16, 'min_size': 10, 'progress': silent} | options
    return make_crops(source, folder, **options)


def listed(folder, split='train'):
    return (folder / f'meta/{split}.txt').read_text().splitlines()


def test_objects_of_some_size_are_cropped_and_listed_by_class(source, tmp_path):
    folder = crops(source, tmp_path / 'crops')
    found = ImageFolder.open(folder)
    assert found.classes == ('traffic light', 'cat')
    assert found.num_images == {'train': 4, 'val': 4}
    assert sorted(listed(folder)) == [
        '000_traffic_light/2.jpg 0',
        '001_cat/1.jpg 1',
        '001_cat/5.jpg 1',
        '001_cat/6.jpg 1',
    ]


def test_a_crop_is_the_square_around_its_box(source, tmp_path):
    folder = crops(source, tmp_path / 'crops', size=48)
    # The box (20, 10, 20, 20) with a tenth of 20 around it: from (18, 8) to (42, 32), where
    # the image is red up to 20 and ends at (40, 30).
    image = Image.open(folder / 'train/001_cat/5.jpg')
    assert image.size == (48, 48)
    pixels = np.asarray(image).astype(int)
    expected = {
        (1, 20): (255, 0, 0),
        (6, 20): (0, 0, 255),
        (41, 20): (0, 0, 255),
        (46, 20): GREY,
        (20, 46): GREY,
        (20, 41): (0, 0, 255),
    }
    for (x, y), colour in expected.items():
        assert np.abs(pixels[y, x] - colour).max() < 40, (x, y)


def test_the_same_arguments_make_the_same_bytes(source, tmp_path):
    def digests(folder):
        return {
            path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob('*.*')
        }

    one, two = (crops(source, tmp_path / n, max_per_class=2) for n in ('one', 'two'))
    assert digests(one) == digests(two)
    assert len(listed(one)) == len(listed(one, 'val')) == 3  # one light, two cats


def test_a_folder_is_not_made_twice_and_not_for_other_arguments(source, tmp_path):
    folder = crops(source, tmp_path / 'crops')
    crop = folder / 'train/001_cat/5.jpg'
    crop.write_bytes(b'')  # what is made again is a picture
    told = []
    assert crops(source, folder, progress=told.append) == folder
    assert not crop.read_bytes() and 'already' in told[0]
    with pytest.raises(RecordError, match='size 16 instead of 32'):
        crops(source, folder, size=32)
    (folder / 'meta/val.txt').unlink()  # interrupted
    crops(source, folder)
    assert Image.open(crop).size == (16, 16)


def test_what_cannot_be(source, tmp_path):
    with pytest.raises(ValueError, match='min_size must be a positive integer, got 0'):
        crops(source, tmp_path / 'a', min_size=0)
    with pytest.raises(ValueError, match='no train object whose shorter side'):
        crops(source, tmp_path / 'b', min_size=31)


def test_a_folder_that_is_damaged(source, tmp_path):
    folder = crops(source, tmp_path / 'crops')
    (folder / 'train/001_cat/5.jpg').unlink()
    with pytest.raises(ImageFolderError, match=r'001_cat/5\.jpg is missing'):
        ImageFolder.open(folder)
    path = folder / 'meta/train.txt'
    path.write_text('000_traffic_light/2.jpg 2\n')
    with pytest.raises(ImageFolderError, match='no label of 0 to 1'):
        ImageFolder.open(folder)
    path.unlink()
    with pytest.raises(ImageFolderError, match=r'there is no .*train\.txt'):
        ImageFolder.open(folder)
