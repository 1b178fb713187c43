"""Pictures from annotations and kept predictions; no detector is needed for them."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ...data.coco_folder import CocoFolder, annotation_file
from .draw_detections import DetectedImage, Instances

SHOWN_IMAGES = 6
MIN_SCORE = 0.5


def detections_of(
    folder: CocoFolder, predictions: Mapping[str, Sequence[Mapping]]
) -> list[DetectedImage]:
    """Some validation images, spread over the data, with their truth and predictions.

    Args:
        folder: The data.
        predictions: COCO results of each detector, by the title of its row. What has a
            score below 0.5 is left out.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder.root / annotation_file('val'))
    label_of = {c['id']: i for i, c in enumerate(coco.dataset['categories'])}
    images = coco.dataset['images']
    chosen = np.linspace(0, len(images) - 1, min(SHOWN_IMAGES, len(images))).astype(int)
    pictures = []
    for image in (images[i] for i in chosen):
        annotations = coco.loadAnns(coco.getAnnIds(image['id'], iscrowd=False))
        masks = None
        if folder.has_masks:
            masks = np.array([coco.annToMask(a) for a in annotations])
        truth = _instances(annotations, label_of, masks)
        found = {
            title: _found(of_detector, image['id'], label_of)
            for title, of_detector in predictions.items()
        }
        with Image.open(folder.root / 'val' / image['file_name']) as opened:
            # Upright, as the toolbox's loader turns photographs.
            upright = ImageOps.exif_transpose(opened)
            pixels = np.asarray(upright.convert('RGB'))
        pictures.append(DetectedImage(pixels, {'truth': truth, **found}))
    return pictures


def _found(
    predictions: Sequence[Mapping], image: int, label_of: Mapping[int, int]
) -> Instances:
    chosen = [
        p for p in predictions if p['image_id'] == image and p['score'] >= MIN_SCORE
    ]
    chosen.sort(key=lambda p: p['score'])
    masks = None
    if chosen and 'segmentation' in chosen[0]:
        masks = np.array([coco_mask.decode(p['segmentation']) for p in chosen])
    return _instances(chosen, label_of, masks, [p['score'] for p in chosen])


def _instances(
    items: Sequence[Mapping],
    label_of: Mapping[int, int],
    masks: np.ndarray | None,
    scores: Sequence[float] | None = None,
) -> Instances:
    """From what annotations and results have in common."""
    boxes = np.array([item['bbox'] for item in items], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        labels=np.array([label_of[item['category_id']] for item in items], dtype=int),
        boxes=boxes,
        masks=None if masks is None else masks.astype(bool),
        scores=None if scores is None else np.array(scores),
    )
