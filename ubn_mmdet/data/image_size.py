"""Which image size fits a folder's images, for a demonstration on few cores."""

import json
import statistics

from .coco_folder import CocoFolder, annotation_file

# The deepest feature maps' stride: batches are padded to a multiple of it anyway.
STRIDE = 32
# Below, the deepest maps have fewer than 4 x 4 cells; to enlarge small images costs little.
SMALLEST = 128
# Time grows with the square: at this size a step takes four times that of 160 pixels.
LARGEST = 320


def fitting_size(folder: CocoFolder) -> int:
    """The side of the square, in pixels, that images are to be resized into.

    The median of the training images' long sides, which a few odd images do not move, as
    a multiple of 32 from 128 to 320.
    """
    pixels = STRIDE * round(median_long_side(folder) / STRIDE)
    return min(max(pixels, SMALLEST), LARGEST)


def median_long_side(folder: CocoFolder) -> float:
    """Of the training images, in pixels."""
    content = json.loads((folder.root / annotation_file('train')).read_bytes())
    return statistics.median(
        max(image['width'], image['height']) for image in content['images']
    )
