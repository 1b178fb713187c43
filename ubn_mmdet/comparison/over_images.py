"""Intervals over images and kinds of error, for the runs of a group.

They are computed from the runs' predictions and kept (``cache.py``) for when those are
gone. Runs that are added later, also on another machine, come to what is kept.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

from ..data.coco_folder import annotation_file
from . import accuracy, cache
from .bootstrap import RESAMPLES, ImagesError, Scores, compare, score
from .groups import Result, ResultGroup
from .predictions_file import read_predictions
from .results import MAIN_METRICS

KIND = 'images'
# What rounding to three decimals takes, and a little.
TOLERANCE = 0.001


def images_of(
    group: ResultGroup,
    baseline: str,
    annotations: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """What the predictions of a group's runs say.

    Args:
        group: The runs.
        baseline: The norm that the others are compared with.
        annotations: The COCO instances file that the runs were evaluated on; by default
            what their folders say. Classifiers need none.
        say: Called with a line before each run that is scored.

    Returns:
        ``images`` and ``resamples`` (counts), ``runs`` (the identities of
        the runs that it is about), ``errors`` (a list of norm, seed, and ``Scores.errors``)
        and ``differences`` (by norm, of ``images.compare``).

    Raises:
        ImagesError: If there is nothing to compute it from, or that does not fit; the
            message is a sentence for the report.
    """
    present = [run for run in group.runs if run.file('predictions') is not None]
    known = cache.load(group, KIND, baseline=baseline)
    if known and not _identities(known) <= {run.identity for run in group.runs}:
        known = None
    if known and _identities(known) >= {run.identity for run in present}:
        return known
    if not present:
        raise ImagesError('The predictions of the runs are not at hand.')
    truth = None
    if not _is_classifier(present[0]):
        truth = _annotations(present[0], annotations)
    scores: dict[str, dict[int, Scores]] = {}
    for run in present:
        say(f'scoring the predictions of {run.norm}, seed {run.seed}')
        scores.setdefault(run.norm, {})[run.seed] = _score(run, truth)
    content = {
        'images': scores[present[0].norm][present[0].seed].images,
        'resamples': RESAMPLES,
        'runs': [list(run.identity) for run in present],
        'errors': [
            {'norm': norm, 'seed': seed, **of_seed.errors}
            for norm, of_norm in scores.items()
            for seed, of_seed in of_norm.items()
        ],
        'differences': {
            norm: compare(
                list(scores.get(baseline, {}).values()), list(of_norm.values())
            )
            for norm, of_norm in scores.items()
            if norm != baseline
        },
    }
    if known:
        content = _with_those_gone(content, known, baseline)
    cache.save(group, KIND, content, baseline=baseline)
    return content


def _identities(content: dict) -> set[tuple]:
    return {tuple(identity) for identity in content['runs']}


def _with_those_gone(content: dict, known: dict, baseline: str) -> dict:
    """Add what is known of runs whose predictions are not at hand any more.

    Where a norm, or the baseline, lacks predictions, its difference stays the known one.
    """
    fresh = _identities(content)
    gone = [identity for identity in known['runs'] if tuple(identity) not in fresh]
    runs = {(norm, seed) for norm, seed, _ in gone}
    norms = {norm for norm, _ in runs}
    return {
        **content,
        'runs': [*gone, *content['runs']],
        'errors': [
            *(e for e in known['errors'] if (e['norm'], e['seed']) in runs),
            *content['errors'],
        ],
        'differences': content['differences']
        | {
            norm: difference
            for norm, difference in known['differences'].items()
            if difference and norms & {norm, baseline}
        },
    }


def _annotations(run: Result, given: Path | None) -> dict:
    path = given or _evaluated_on(run)
    if path is None or not path.is_file():
        raise ImagesError(
            'The annotations of the validation images are not at hand '
            '(`--annotations` names them).'
        )
    return json.loads(path.read_bytes())


def _evaluated_on(run: Result) -> Path | None:
    """What the specification in the run's folder says, if it is there."""
    path = run.beside('run.json')
    if path is None:
        return None
    specification = json.loads(path.read_text())
    root = Path(specification['directory'], specification['folder']['root'])
    return root / annotation_file('val')


def _is_classifier(run: Result) -> bool:
    return run.number('accuracy_top1') is not None


def _score(run: Result, truth: dict | None) -> Scores:
    name = f'{run.norm}, seed {run.seed}'
    path = run.file('predictions')
    assert path is not None
    try:
        predictions = read_predictions(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ImagesError(f'{name}: {path.name} is damaged: {error}.') from None
    try:
        if truth is None:
            scores = accuracy.score(predictions)
        else:
            scores = score(truth, predictions)
    except ModuleNotFoundError:
        raise ImagesError('hotcoco is not installed: `pip install hotcoco`.') from None
    except ImagesError as error:
        raise ImagesError(f'{name}: {error}.') from None
    metric = next(metric for metric in MAIN_METRICS if metric in scores.metrics)
    recorded, ours = run.number(metric), scores.metrics[metric]
    if recorded is not None and not abs(ours - recorded) <= TOLERANCE:
        what = 'these are not the annotations that it was evaluated on'
        if truth is None:  # a classifier's predictions have the labels with them
            what = 'these are the predictions of another run'
        raise ImagesError(
            f'{name}: its predictions have {metric} {ours:.3f}, and {recorded:.3f} is '
            f'recorded: {what}.'
        )
    return scores
