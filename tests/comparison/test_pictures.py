"""Pictures from annotations and predictions."""

import json

import numpy as np
import pytest
from helpers.results import predictions, squares
from PIL import Image

from ubn_mmdet.comparison.report.pictures import (
    COLOURS,
    MIN_SCORE,
    SHOWN_IMAGES,
    draw_predictions,
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


def rows_of(figure):
    """The axes of each row, by its title."""
    grid = np.array(figure.axes).reshape(-1, SHOWN_IMAGES)
    return {row[0].get_ylabel(): row for row in grid}


def test_pictures_have_what_is_there_and_what_was_found(folder):
    found = predictions(TRUTH, 0.1, seed=0)
    boxes = [{k: v for k, v in p.items() if k != 'segmentation'} for p in found]
    figure = draw_predictions(folder, {'BN': found, 'UBN': boxes, 'none': []})
    rows = rows_of(figure)
    assert list(rows) == ['truth', 'BN', 'UBN', 'none']
    ids = [int(axes.images[0].get_array()[0, 0, 0]) for axes in rows['truth']]
    assert ids[0] == 1 and ids[-1] == 9
    for column, i in enumerate(ids):
        there = [a for a in TRUTH['annotations'] if a['image_id'] == i]
        sure = [p for p in found if p['image_id'] == i and p['score'] >= MIN_SCORE]
        truth, masks, boxed, none = (axes[column] for axes in rows.values())
        # A mask is an area and its outline.
        assert len(truth.collections) == 2 * len(there) and not truth.texts
        assert len(masks.collections) == 2 * len(sure) and not masks.patches
        assert [text.get_text() for text in masks.texts] == [
            f'{score:.2f}' for score in sorted(p['score'] for p in sure)
        ]
        corners = sorted(tuple(p['bbox'][:2]) for p in sure)
        assert sorted(box.get_xy() for box in boxed.patches) == corners
        assert not boxed.collections and not none.collections and not none.patches
    of_class = {a['category_id'] for a in TRUTH['annotations']}
    assert len(figure.legends[0].get_texts()) == len(of_class)


def test_a_class_has_its_colour(folder):
    second = {**TRUTH['annotations'][0], 'category_id': 2, 'score': 0.9}
    del second['segmentation']
    axes = rows_of(draw_predictions(folder, {'BN': [second]}))['BN'][0]
    [box] = axes.patches
    wanted = tuple(int(COLOURS[1][i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert box.get_edgecolor()[:3] == pytest.approx(wanted)


def test_photographs_are_shown_upright(folder):
    path = folder.root / 'val' / TRUTH['images'][0]['file_name']
    lying = Image.new('RGB', (40, 20))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying.save(path, exif=exif)
    axes = rows_of(draw_predictions(folder, {}))['truth'][0]
    assert axes.images[0].get_array().shape == (40, 20, 3)
