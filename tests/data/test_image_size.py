"""The image size that fits a folder."""

import json

import pytest

from ubn_mmdet.data.coco_folder import CocoFolder
from ubn_mmdet.data.image_size import fitting_size, median_long_side


def folder(tmp_path, *sizes):
    images = [{'width': width, 'height': height} for width, height in sizes]
    (tmp_path / 'instances_train.json').write_text(json.dumps({'images': images}))
    return CocoFolder(tmp_path, ('a',), {}, {})


def test_few_large_images_do_not_decide(tmp_path):
    opened = folder(tmp_path, (100, 220), (230, 50), (240, 240), (9000, 9000), (8, 8))
    assert median_long_side(opened) == 230
    assert fitting_size(opened) == 224


@pytest.mark.parametrize(
    ('side', 'size'), [(20, 128), (160, 160), (175, 160), (177, 192), (640, 320)]
)
def test_sizes_are_multiples_of_the_stride_within_limits(tmp_path, side, size):
    assert fitting_size(folder(tmp_path, (side, side // 2))) == size
