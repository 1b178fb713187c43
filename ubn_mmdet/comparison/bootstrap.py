"""How far two norms differ, over validation images, and by which kind of error.

Few seeds say little about training, and nothing about how much the score depends on the
images at hand. So the predictions of every run are scored again on the same 1000 random
halves of the validation images: a paired half-sample bootstrap. It counts each image
twice or not at all, weights of mean 1 and variance 1 as the ordinary bootstrap's, so that
a spread over halves is the spread over sets of the full size. Intervals are that spread
around the difference on all images: AP on half of them is a little high. With several
seeds each half gives the difference of the means over seeds, and the interval is that of
this difference: it holds for these trained models and images like these.

hotcoco matches predictions once and scores subsets fast, but counts no image twice. Its
own ``compare`` draws with replacement and then drops repeats without making up for it:
its intervals come out ``sqrt(e - 1) = 1.31`` times too narrow, which a test shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .coco_metrics import NAMES
from .statistics import CONFIDENCE

KINDS = {'bbox': 'bbox', 'segm': 'segmentation'}
METRICS = dict(zip(NAMES, ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), strict=True))
ERRORS = ('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss')
RESAMPLES = 1000
# A metric that more of the halves than this cannot give has no interval.
MAX_UNDEFINED = 0.05


class ImagesError(ValueError):
    """Predictions cannot be scored; the message says why."""


@dataclass(frozen=True)
class Scores:
    """The predictions of one run, scored.

    Attributes:
        metrics: ``bbox_mAP``, ``segm_mAP_50``, ...: on all images; NaN where COCO has -1.
            Of a classifier ``accuracy_top1``, ``accuracy_top5``, in percent.
        halves: The same, each ``(resamples,)`` float64: on each half of the images.
        errors: What each kind of error costs, in AP50, by TIDE (Bolya et al. 2020):
            ``{'bbox': {'Cls': ..., 'Loc': ..., 'Both': ..., 'Dupe': ..., 'Bkg': ...,
            'Miss': ...}}``, also for ``'segm'`` if there are masks. Empty for a classifier.
        images: How many there are.
    """

    metrics: dict[str, float]
    halves: dict[str, np.ndarray]
    errors: dict[str, dict[str, float]]
    images: int


def random_halves(images: list[int], resamples: int = RESAMPLES) -> dict[str, list]:
    """Random halves of the images, the same ones for the same images."""
    rng = np.random.default_rng(0)
    ordered = np.array(sorted(images))
    size = max(len(ordered) // 2, 1)
    return {str(i): rng.permutation(ordered)[:size].tolist() for i in range(resamples)}


def score(
    annotations: dict, predictions: list[dict], resamples: int = RESAMPLES
) -> Scores:
    """Score predictions on all images and on halves of them.

    Args:
        annotations: Content of a COCO instances file.
        predictions: COCO results; masks are scored if these and the annotations have a
            ``segmentation``. A model that found nothing may have masks or not.
        resamples: How many halves.

    Raises:
        ImagesError: If hotcoco refuses the predictions.
        ModuleNotFoundError: If hotcoco is not installed.
    """
    import hotcoco

    truth = hotcoco.COCO(annotations)
    images = truth.get_img_ids()
    halves = random_halves(images, resamples)
    scores = Scores({}, {}, {}, len(images))
    for kind, shape in KINDS.items():
        if not all(a.get(shape) for a in annotations['annotations']):
            continue
        if predictions and shape not in predictions[0]:
            continue
        # With a box at hand the area of a mask would be taken from the box.
        keys = 'image_id', 'category_id', 'score', shape
        try:
            found = truth.load_res([{k: p[k] for k in keys} for p in predictions])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ImagesError(f'hotcoco cannot read the predictions: {error}') from None
        evaluation = hotcoco.COCOeval(truth, found, kind)
        evaluation.evaluate()
        sliced = evaluation.slice_by(halves)
        for ours, theirs in METRICS.items():
            key = f'{kind}_{ours}'
            scores.metrics[key] = _defined(sliced['_overall'][theirs])
            scores.halves[key] = np.array([_defined(sliced[i][theirs]) for i in halves])
        errors = evaluation.tide_errors()['delta_ap']
        scores.errors[kind] = {name: float(errors[name]) for name in ERRORS}
    return scores


def _defined(value: float) -> float:
    return float(value) if value >= 0 else float('nan')


def compare(baseline: Sequence[Scores], other: Sequence[Scores]) -> dict:
    """Intervals over images of the difference of means over seeds, other minus baseline.

    Args:
        baseline: Scores of each seed.
        other: Scores of each seed.

    Returns:
        ``{'bbox_mAP': {'difference': 0.1, 'interval': [0.0, 0.2]}}`` for the metrics that
        all have. Numbers that are not defined are None.
    """
    if not baseline or not other:
        return {}
    runs = [*baseline, *other]
    return {
        metric: _interval(
            float(_mean(s.metrics[metric] for s in other))
            - float(_mean(s.metrics[metric] for s in baseline)),
            _mean(s.halves[metric] for s in other)
            - _mean(s.halves[metric] for s in baseline),
        )
        for metric in runs[0].metrics
        if all(metric in scores.metrics for scores in runs)
    }


def _mean(values: Iterable) -> np.ndarray:
    return np.mean(list(values), axis=0)


def _interval(difference: float, halves: np.ndarray) -> dict:
    if not np.isfinite(difference):
        return {'difference': None, 'interval': None}
    known = halves[np.isfinite(halves)]
    if len(known) < (1 - MAX_UNDEFINED) * len(halves):
        return {'difference': float(difference), 'interval': None}
    tail = (1 - CONFIDENCE) / 2
    low, high = difference + np.quantile(known - known.mean(), [tail, 1 - tail])
    return {'difference': float(difference), 'interval': [float(low), float(high)]}
