"""What the predictions of runs say besides AP: how it varies over images, and the errors.

The predictions of every run are scored again on the same 300 random halves of the
validation images: a paired half-sample bootstrap. It counts each image twice or not at
all, weights of mean 1 and variance 1 as the ordinary bootstrap's, so that a spread over
halves is that over sets of the full size. hotcoco's own ``compare`` drops what it draws
repeatedly: its intervals come out ``sqrt(e - 1) = 1.31`` times too narrow, which a test
shows.

What is found of a run is kept in ``<results>.images.json``, for when predictions are gone.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm as normal

from ..data.coco_folder import annotation_file
from ..files import write_whole
from ..records import read_json
from .launchers import SPECIFICATION
from .predictions import read_predictions
from .results import Result, ResultGroup, identity
from .statistics import CONFIDENCE, Interval

KINDS = {'bbox': 'bbox', 'segm': 'segmentation'}
# By TIDE (Bolya et al. 2020).
ERRORS = {
    'Cls': 'class', 'Loc': 'place', 'Both': 'class and place',
    'Dupe': 'duplicate', 'Bkg': 'background', 'Miss': 'missed',
}  # fmt: skip
HALVES = 300
# What rounding to three decimals takes, and a little.
TOLERANCE = 0.001


class ScoringError(ValueError):
    """Predictions cannot be scored; the message is a sentence for the report."""


def random_halves(images: Sequence[int], count: int = HALVES) -> dict[str, list[int]]:
    """Random halves of the images, the same ones for the same images."""
    rng = np.random.default_rng(0)
    ordered = np.array(sorted(images))
    size = max(len(ordered) // 2, 1)
    return {str(i): rng.permutation(ordered)[:size].tolist() for i in range(count)}


def score(
    annotations: dict, predictions: Sequence[dict], halves: int = HALVES
) -> dict[str, dict]:
    """Score predictions on all images and on halves of them.

    Args:
        annotations: Content of a COCO instances file.
        predictions: COCO results; masks are scored if these and the annotations have a
            ``segmentation``. A model that found nothing may have masks or not.
        halves: How many.

    Returns:
        For ``'bbox'``, and ``'segm'`` if there are masks, ``AP`` on all images, on each of
        the ``halves``, and for each of the ``errors`` what it costs in AP50.

    Raises:
        ScoringError: If hotcoco is not installed, or refuses the predictions.
    """
    try:
        import hotcoco
    except ModuleNotFoundError:
        raise ScoringError('hotcoco is not installed: `pip install hotcoco`.') from None
    truth = hotcoco.COCO(annotations)
    slices = random_halves(truth.get_img_ids(), halves)
    found = {}
    for kind, shape in KINDS.items():
        if not all(a.get(shape) for a in annotations['annotations']):
            continue
        if predictions and shape not in predictions[0]:
            continue
        # If a box is given, the area of a mask would be taken from the box.
        keys = 'image_id', 'category_id', 'score', shape
        try:
            loaded = truth.load_res([{k: p[k] for k in keys} for p in predictions])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ScoringError(
                f'hotcoco cannot read the predictions: {error}.'
            ) from None
        evaluation = hotcoco.COCOeval(truth, loaded, kind)
        evaluation.evaluate()
        sliced = evaluation.slice_by(slices)
        errors = evaluation.tide_errors()['delta_ap']
        found[kind] = {
            'AP': float(sliced['_overall']['AP']),
            'halves': [round(float(sliced[i]['AP']), 5) for i in slices],
            'errors': {name: float(errors[name]) for name in ERRORS},
        }
    return found


def over_images(
    difference: float, baseline: Sequence[Mapping], other: Sequence[Mapping]
) -> Interval | None:
    """The 95% interval of a difference of means over seeds, over images.

    Args:
        difference: Around which it lies. That on half of the images is a little higher.
        baseline: What :func:`score` gives of one kind, for each seed.
        other: The same of the other norm.

    Returns:
        None if a norm has no scores, or if they do not vary.
    """
    if not baseline or not other:
        return None
    means = [np.mean([run['halves'] for run in runs], 0) for runs in (baseline, other)]
    margin = normal.ppf((1 + CONFIDENCE) / 2) * float(np.std(means[1] - means[0]))
    if not margin:  # of one image, all halves are the same
        return None
    return difference - margin, difference + margin


def scores_of_runs(
    group: ResultGroup,
    annotations: Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[tuple[str, int], dict], str]:
    """What the predictions of a group's runs say, and a sentence about what is missing.

    Args:
        group: The runs.
        annotations: The COCO instances file that the runs were evaluated on, where their
            folders do not lead to it.
        say: Called with a line before each run that is scored.

    Returns:
        What :func:`score` gives by norm and seed, and a sentence, empty if nothing lacks.
    """
    files = {run.source: run.source.with_suffix('.images.json') for run in group.runs}
    kept_in = {source: read_json(path) or {} for source, path in files.items()}
    found: dict[tuple[str, int], dict] = {}
    problem = ''
    runs = [run for run in group.runs if 'bbox_mAP' in run.record]  # no classifiers
    for run in runs:
        name, kept = '/'.join(identity(run.record)), kept_in[run.source]
        # The same run may have been repeated on another device.
        if name not in kept or _other_ap(run, kept[name]):
            if run.file('predictions') is None:
                continue
            say(f'scoring the predictions of {run.norm}, seed {run.seed}')
            try:
                kept[name] = _score(run, annotations)
            except ScoringError as error:
                problem = problem or f'{run.norm}, seed {run.seed}: {error}'
                continue
            write_whole(files[run.source], json.dumps(kept).encode())
        found[run.norm, run.seed] = kept[name]
    if not problem and len(found) < len(runs):
        problem = f'The predictions of {len(found)} of {len(runs)} runs are available.'
    return found, problem


def _score(run: Result, annotations: Path | None) -> dict:
    path = run.file('predictions')
    assert path is not None
    try:
        predictions = read_predictions(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScoringError(f'{path.name} is damaged: {error}.') from None
    truth = annotations
    if specification := read_json(path.with_name(SPECIFICATION)):
        own = Path(specification['folder']['root']) / annotation_file('val')
        truth = own if own.is_file() else annotations
    if truth is None or not truth.is_file():
        raise ScoringError(
            'the annotations of the validation images are not available '
            '(`--annotations` names them).'
        )
    found = score(json.loads(truth.read_bytes()), predictions)
    if other := _other_ap(run, found):
        raise ScoringError(
            f'{other}: these are not the annotations that it was evaluated on.'
        )
    return found


def _other_ap(run: Result, found: Mapping[str, Mapping]) -> str:
    """How scores differ from what the run's line says; empty if they do not."""
    for kind, scores in found.items():
        recorded = run.number(f'{kind}_mAP')
        if recorded is not None and abs(scores['AP'] - recorded) > TOLERANCE:
            return (
                f'its predictions have {kind} AP {scores["AP"]:.3f}, and '
                f'{recorded:.3f} is recorded'
            )
    return ''
