"""Masks in COCO's format."""

import numpy as np
from pycocotools import mask as coco_mask


def mask_annotation(mask: np.ndarray) -> dict:
    """``bbox``, ``area`` and ``segmentation`` of a mask, ``(H, W)`` bool.

    The box and the area, in pixels, are those of the mask; the segmentation is its RLE.
    """
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        'bbox': coco_mask.toBbox(rle).tolist(),
        'area': int(coco_mask.area(rle)),
        'segmentation': rle | {'counts': rle['counts'].decode('ascii')},
    }
