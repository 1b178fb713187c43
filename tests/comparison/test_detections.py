"""Pictures from annotations and predictions."""

import json

import numpy as np
import pytest
from helpers.results import predictions, squares
from PIL import Image

from ubn_mmdet.comparison.report.detections import (
    MIN_SCORE,
    SHOWN_IMAGES,
    detections_of,
)
from ubn_mmdet.data.coco_folder import CocoFolder

TRUTH = squares(9)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'val').mkdir()
    for image in TRUTH['images']:
        pixels = np.full((300, 300, 3), image['id'], dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'val' / image['file_name'])
    (tmp_path / 'instances_val.json').write_text(json.dumps(TRUTH))
    return CocoFolder(tmp_path, ('a', 'b'), {'val': 9}, {})


def test_pictures_have_what_is_there_and_what_was_found(folder):
    found = predictions(TRUTH, 0.1, seed=0)
    boxes = [{k: v for k, v in p.items() if k != 'segmentation'} for p in found]
    pictures = detections_of(folder, {'BN': found, 'UBN': boxes, 'none': []})
    ids = [int(picture.image[0, 0, 0]) for picture in pictures]
    assert len(ids) == SHOWN_IMAGES and ids[0] == 1 and ids[-1] == 9
    for i, picture in zip(ids, pictures, strict=True):
        assert list(picture.rows) == ['truth', 'BN', 'UBN', 'none']
        truth, masks, boxed, none = picture.rows.values()
        there = [a for a in TRUTH['annotations'] if a['image_id'] == i]
        assert truth.labels.tolist() == [a['category_id'] - 1 for a in there]
        x, y, w, h = there[0]['bbox']
        np.testing.assert_allclose(truth.boxes[0], [x, y, x + w, y + h])
        areas = truth.masks.sum(axis=(1, 2))
        np.testing.assert_allclose(areas, [a['area'] for a in there], rtol=0.2)

        sure = [p for p in found if p['image_id'] == i and p['score'] >= MIN_SCORE]
        assert masks.scores.tolist() == sorted(p['score'] for p in sure)
        assert masks.labels.tolist() == boxed.labels.tolist()
        assert boxed.masks is None and not len(none.boxes)
        assert (masks.masks is None) == (not sure)
        for box, mask in zip(masks.boxes, masks.masks if sure else (), strict=True):
            rows, columns = np.nonzero(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(np.clip(box, 0, 300), expected, atol=1)


def test_photographs_are_shown_upright(folder):
    path = folder.root / 'val' / TRUTH['images'][0]['file_name']
    lying = Image.new('RGB', (40, 20))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying.save(path, exif=exif)
    picture = detections_of(folder, {})[0]
    assert picture.image.shape == (40, 20, 3)
