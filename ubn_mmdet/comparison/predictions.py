"""The file of a run's predictions, and COCO's metrics of these, not rounded."""

import contextlib
import gzip
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..files import write_whole

PREDICTIONS = 'predictions.json.gz'  # in the run's folder
NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def write_predictions(path: str | os.PathLike, predictions: Sequence[dict]) -> None:
    """Write a COCO results list, as compressed json."""
    text = json.dumps(predictions, separators=(',', ':'))
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def read_predictions(path: str | os.PathLike) -> list[dict]:
    """Read what :func:`write_predictions` wrote."""
    return json.loads(gzip.decompress(Path(path).read_bytes()))


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
    from pycocotools.coco import COCO  # reports need no pycocotools
    from pycocotools.cocoeval import COCOeval

    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        for kind in kinds:
            # pycocotools takes the size from the box wherever there is one.
            dropped = 'bbox' if kind == 'segm' else 'segmentation'
            found = [{k: p[k] for k in p if k != dropped} for p in predictions]
            # loadRes cannot take an empty list. Images and classes are all of the truth's.
            results = truth.loadRes(found) if found else COCO()
            evaluation = COCOeval(truth, results, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, value in zip(NAMES, evaluation.stats, strict=False):
                metrics[f'{kind}_{name}'] = float(value)
    return metrics
