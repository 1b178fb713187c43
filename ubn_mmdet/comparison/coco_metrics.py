"""COCO's metrics of kept predictions, not rounded."""

import contextlib
import io
import os
from collections.abc import Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def coco_metrics(
    annotations: str | os.PathLike, predictions: list[dict], kinds: Sequence[str]
) -> dict[str, float]:
    """``{'bbox_mAP': ..., 'bbox_mAP_50': ..., 'segm_mAP': ...}``.

    Args:
        annotations: A COCO instances file.
        predictions: A COCO results list with ``bbox``, and ``segmentation`` for masks.
        kinds: Of ``'bbox'``, ``'segm'``.

    Sizes of objects are those of masks for masks, and of boxes for boxes. -1 stands for
    a size of which there is no object.
    """
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        for kind in kinds:
            # pycocotools takes the size from the box wherever there is one.
            dropped = 'bbox' if kind == 'segm' else 'segmentation'
            found = [
                {key: value for key, value in p.items() if key != dropped}
                for p in predictions
            ]
            # loadRes cannot take an empty list.
            evaluation = COCOeval(
                truth, truth.loadRes(found) if found else COCO(), kind
            )
            evaluation.params.imgIds = truth.getImgIds()
            evaluation.params.catIds = truth.getCatIds()
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, value in zip(NAMES, evaluation.stats[:6], strict=True):
                metrics[f'{kind}_{name}'] = float(value)
    return metrics
