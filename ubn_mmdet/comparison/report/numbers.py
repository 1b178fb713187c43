"""All numbers of a group of runs, computed once: tables, figures and json show them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from scipy.stats import false_discovery_control

from ..groups import Result, ResultGroup
from ..statistics import compare, holm, spread, verdict
from .coco_table import COLUMNS

KINDS = {'bbox': 'box', 'segm': 'mask'}
# Of classifiers.
ACCURACIES = {'accuracy_top1': 'top-1, %', 'accuracy_top5': 'top-5, %'}
# Those that are told first, and that curves and figures show.
MAIN = {
    'bbox_mAP': 'box AP',
    'segm_mAP': 'mask AP',
    'accuracy_top1': ACCURACIES['accuracy_top1'],
}
# Not COCO's: it says how early a run gets where it gets.
OVER_EPOCHS = 'mAP_over_epochs'
COSTS = ('seconds_per_step', 'peak_memory_mb', 'seconds', 'parameters')
MADE = ('classes', 'train_images', 'val_images', 'device', 'jobs', 'versions')
CURVES = {'epoch': tuple(MAIN), 'iteration': ('loss',)}


def numbers_of(
    group: ResultGroup,
    baseline: str,
    images: dict | str,
    condensation: Sequence[dict] = (),
) -> dict:
    """Everything that a report says of a group; json can hold it.

    A run that diverged counts as one that found nothing: each of its metrics is 0.

    Args:
        group: The runs.
        baseline: The norm to compare with; need not be there.
        images: What ``images_of`` gives, or the sentence why there is nothing.
        condensation: What ``condensation_of`` gives.
    """
    norms = sorted(group.norms, key=lambda norm: norm != baseline)
    metrics = [
        f'{kind}_{name}'
        for kind in KINDS
        if any(run.number(f'{kind}_mAP') is not None for run in group.runs)
        for name in (*COLUMNS.values(), OVER_EPOCHS)
    ] + [
        metric
        for metric in ACCURACIES
        if any(run.number(metric) is not None for run in group.runs)
    ]
    by_norm = {norm: group.of(norm) for norm in norms}
    values = {metric: _with_diverged(group, by_norm, metric) for metric in metrics}
    over_images = images.get('differences', {}) if isinstance(images, dict) else {}
    against = {
        norm: {
            m: _compare(values[m], baseline, norm, over_images.get(norm, {}).get(m))
            for m in metrics
        }
        for norm in norms
        if norm != baseline and _has_ended(group, norm) and by_norm.get(baseline)
    }
    _add_false_discovery_rates(against)
    return {
        'settings': group.settings,
        'baseline': baseline if by_norm.get(baseline) else None,
        'metrics': metrics,
        'primary': _primary(group, values, baseline, over_images),
        'runs': [
            _run(run, metrics) for norm in norms for run in by_norm[norm].values()
        ],
        'broken': [_broken(run) for run in group.broken],
        'norms': {
            norm: {
                'norm_cfg': _first(group, norm).record.get('norm_cfg'),
                'options': _first(group, norm).record.get('options'),
                'seeds': list(runs),
                'diverged': group.diverged(norm),
                'metrics': {m: _spread(values[m][norm]) for m in metrics},
                'costs': {
                    c: _spread(_values(runs, c, Result.number).values()) for c in COSTS
                },
            }
            for norm, runs in by_norm.items()
        },
        'against': against,
        'pairs': {
            m: {
                a: {b: _compare(values[m], b, a) for b in norms if a != b}
                for a in norms
            }
            for m in metrics
            if m in MAIN
        },
        'curves': {
            norm: _curves(list(runs.values())) for norm, runs in by_norm.items()
        },
        'images': images,
        'errors': _errors(images) if isinstance(images, dict) else {},
        'condensation': list(condensation),
        'made': _made(group.runs or group.broken),
    }


def metric_value(run: Result, metric: str) -> float | None:
    """A metric of a run; also those that follow from its curves."""
    kind, _, name = metric.partition('_')
    if name != OVER_EPOCHS:
        return run.number(metric)
    curve = _points(run, 'epoch', f'{kind}_mAP')
    return float(np.mean(list(curve.values()))) if curve else None


def _values(
    runs: Mapping[int, Result],
    key: str,
    read: Callable[[Result, str], float | None] = metric_value,
) -> dict[int, float]:
    found = {seed: read(run, key) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _with_diverged(
    group: ResultGroup, by_norm: Mapping[str, Mapping[int, Result]], metric: str
) -> dict[str, list[float]]:
    """A metric of each norm's runs, 0 for one that diverged."""
    values = {
        norm: list(_values(runs, metric).values()) for norm, runs in by_norm.items()
    }
    if not any(values.values()):  # the data have no objects of this size
        return values
    return {
        n: of_norm + [0.0] * len(group.diverged(n)) for n, of_norm in values.items()
    }


def _spread(values: Iterable[float]) -> dict | None:
    found = spread(list(values))
    return asdict(found) if found else None


def _has_ended(group: ResultGroup, norm: str) -> bool:
    """Whether a norm has a run that is finished, or has diverged."""
    return bool(group.of(norm) or group.diverged(norm))


def _compare(
    values: Mapping[str, Sequence[float]],
    baseline: str,
    other: str,
    images: Mapping | None = None,
) -> dict | None:
    """Other minus baseline, over seeds and over images."""
    found = compare(values[baseline], values[other])
    if found is None:
        return None
    return {**asdict(found), 'images': dict(images) if images else None}


def _add_false_discovery_rates(
    against: Mapping[str, Mapping[str, dict | None]],
) -> None:
    """Give each exploratory comparison of a main metric its ``q`` among them all."""
    compared = [
        found
        for metrics in against.values()
        for metric, found in metrics.items()
        if metric in MAIN and found and found['p'] is not None
    ]
    rates = false_discovery_control([found['p'] for found in compared])
    for found, rate in zip(compared, rates, strict=True):
        found['q'] = float(rate)


def _primary(
    group: ResultGroup,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    baseline: str,
    over_images: Mapping[str, Mapping],
) -> list[dict]:
    """The contrasts that were named beforehand, corrected for their number, decided."""
    named = group.primary()
    compared = []
    for contrast in named:
        of_metric = values.get(contrast['metric'], {})
        pair = (
            of_metric.get(contrast['baseline'], []),
            of_metric.get(contrast['norm'], []),
        )
        compared.append(compare(*pair, tests=len(named)))
    # One that has no p yet counts all the same.
    ps = [1.0 if found is None or found.p is None else found.p for found in compared]
    decided = []
    for contrast, found, p in zip(named, compared, holm(ps), strict=True):
        images = None
        if contrast['baseline'] == baseline:
            images = over_images.get(contrast['norm'], {}).get(contrast['metric'])
        decided.append(
            {
                **contrast,
                **(asdict(found) if found else {}),
                'holm': None if found is None or found.p is None else p,
                'images': images,
                'diverged': [
                    len(group.diverged(contrast[side])) for side in ('baseline', 'norm')
                ],
                'verdict': verdict(found, p, images and images['interval']),
            }
        )
    return decided


def _run(run: Result, metrics: Sequence[str]) -> dict:
    return {
        'norm': run.norm,
        'seed': run.seed,
        **{metric: metric_value(run, metric) for metric in metrics},
        **{cost: run.number(cost) for cost in COSTS},
    }


def _broken(run: Result) -> dict:
    keys = 'norm', 'seed', 'status', 'error'
    return {key: run.record.get(key) for key in keys}


def _first(group: ResultGroup, norm: str) -> Result:
    return next(run for run in (*group.runs, *group.broken) if run.norm == norm)


def _points(run: Result, axis: str, curve: str) -> dict[float, float]:
    curves = run.record.get('curves') or {}
    places, values = curves.get(axis) or [], curves.get(curve) or []
    return {
        x: float(y)
        for x, y in zip(places, values, strict=False)
        if y is not None and np.isfinite(y) and y >= 0
    }


def _curves(runs: Sequence[Result]) -> dict:
    """Mean and standard deviation over seeds, where all seeds have a point."""
    curves: dict[str, dict] = {}
    for axis, names in CURVES.items():
        for name in names:
            points = [_points(run, axis, name) for run in runs]
            common = sorted(set.intersection(*map(set, points))) if points else []
            if common:
                spreads = [_spread([p[x] for p in points]) or {} for x in common]
                curves[name] = {
                    axis: common,
                    'mean': [s['mean'] for s in spreads],
                    'deviation': [s['deviation'] for s in spreads],
                }
    return curves


def _errors(images: Mapping) -> dict[str, dict]:
    """What each kind of error costs, over seeds: by box or mask, norm, kind of error."""
    found: dict[str, dict] = {}
    for record in images['errors']:
        for kind in record.keys() & KINDS.keys():
            of_norm = found.setdefault(kind, {}).setdefault(record['norm'], {})
            for error, cost in record[kind].items():
                of_norm.setdefault(error, []).append(cost)
    return {
        kind: {
            norm: {error: _spread(costs) for error, costs in errors.items()}
            for norm, errors in found[kind].items()
        }
        for kind in KINDS
        if kind in found
    }


def _made(runs: Sequence[Result]) -> dict:
    """With what the runs were made: all values that occur, as text."""
    made: dict[str, list[str] | None] = {}
    for key in MADE:
        values = [run.record[key] for run in runs if run.record.get(key) is not None]
        shown = dict.fromkeys(
            ', '.join(f'{k} {v}' for k, v in x.items())
            if isinstance(x, dict)
            else str(x)
            for x in values
        )
        made[key] = list(shown)
    started = [run.record['started'] for run in runs if run.record.get('started')]
    finished = [run.record['finished'] for run in runs if run.record.get('finished')]
    made['times'] = [min(started), max(finished)] if started and finished else None
    return made
