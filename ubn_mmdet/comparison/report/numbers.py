"""All numbers of a group of runs, computed once: tables, figures and json show them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import false_discovery_control

from ..image_scores import ERRORS, HALVES, KINDS, over_images
from ..predictions import NAMES
from ..results import Result, ResultGroup
from ..statistics import compare, holm, spread, verdict

SIZES = dict(zip(NAMES, ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), strict=True))
# Tables of metrics: the title of each, and the titles of its columns.
TABLES = {
    'box': {f'bbox_{name}': title for name, title in SIZES.items()},
    'mask': {f'segm_{name}': title for name, title in SIZES.items()},
    'accuracy': {'accuracy_top1': 'top-1, %', 'accuracy_top5': 'top-5, %'},
}
# Those that are told first, and that curves and figures show.
MAIN = {'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP', 'accuracy_top1': 'top-1, %'}
SCORED = {f'{kind}_mAP': kind for kind in KINDS}  # over images
COSTS = ('seconds_per_step', 'peak_memory_mb', 'parameters')
CURVES = {**dict.fromkeys(MAIN, 'epoch'), 'loss': 'iteration'}
Scores = Mapping[tuple[str, int], Mapping[str, Mapping]]


def numbers_of_all(
    groups: Mapping[str, ResultGroup],
    baseline: str,
    read: Callable[[ResultGroup], tuple[Scores, str]],
) -> dict[str, dict]:
    """The numbers of each group, by its title.

    The primary contrasts of all groups are corrected for their number together: several
    comparisons may belong to one design. ``read`` gives the image scores of a group, and
    what of them is missing (``scores_of_runs``).
    """
    tests = sum(len(group.primary()) for group in groups.values())
    numbers = {
        title: numbers_of(group, baseline, *read(group), tests=tests)
        for title, group in groups.items()
    }
    contrasts = [c for of_group in numbers.values() for c in of_group['primary']]
    # One whose runs have not ended counts all the same.
    ended = [c['p'] is not None and c['missing'] == 0 for c in contrasts]
    ps = holm([c['p'] if e else 1.0 for c, e in zip(contrasts, ended, strict=True)])
    for contrast, p, has_ended in zip(contrasts, ps, ended, strict=True):
        contrast['holm'] = p if has_ended else None
        contrast['verdict'] = verdict(contrast, p)
    return numbers


def numbers_of(
    group: ResultGroup,
    baseline: str,
    scores: Scores | None = None,
    note: str = '',
    tests: int = 1,
) -> dict:
    """Everything that a report says of a group but for its verdicts.

    A run that diverged counts as one that found nothing: each of its metrics is 0.
    ``scores`` and ``note`` are what ``scores_of_runs`` gives; ``tests`` is the number of
    primary contrasts that are corrected together. The baseline need not be there.
    """
    norms = sorted(group.norms, key=lambda norm: norm != baseline)
    of_norm = {norm: group.of(norm) for norm in norms}
    first = {run.norm: run.record for run in reversed((*group.runs, *group.broken))}
    metrics = [
        metric
        for table in TABLES.values()
        for metric in table
        if any(run.number(next(iter(table))) is not None for run in group.runs)
    ]
    values = {metric: _values(group, norms, metric) for metric in metrics}
    scores = scores or {}

    def difference(norm: str, metric: str, base: str, tests: int = 1) -> dict | None:
        of_metric = values.get(metric, {})
        found = compare(of_metric.get(base, []), of_metric.get(norm, []), tests)
        if found is not None and metric in SCORED:
            kind = SCORED[metric]
            sides = [_scored(scores, group, side, kind) for side in (base, norm)]
            found['over_images'] = over_images(found['difference'], *sides)
        return found

    against = {
        norm: {m: difference(norm, m, baseline) for m in metrics}
        for norm in norms
        if norm != baseline and group.ended(baseline) and group.ended(norm)
    }
    _add_false_discovery_rates(against, baseline, group.primary())
    primary = []
    for contrast in group.primary():
        metric, sides = contrast['metric'], (contrast['baseline'], contrast['norm'])
        found = difference(sides[1], metric, sides[0], tests) or {}
        base, other = (_known(group.of(side).values(), metric) for side in sides)
        primary.append(
            {
                **contrast,
                'p': None,
                **found,
                'diverged': [len(group.diverged(side)) for side in sides],
                'without_diverged': compare(base, other),
                'missing': sum(len(group.missing(side)) for side in sides),
            }
        )
    return {
        'settings': group.settings,
        'baseline': baseline if group.ended(baseline) else None,
        'metrics': metrics,
        'primary': primary,
        'against': against,
        'norms': {
            norm: {
                'norm_cfg': first[norm].get('norm_cfg'),
                'options': first[norm].get('options'),
                'seeds': list(runs),
                'diverged': group.diverged(norm),
                'metrics': {m: spread(values[m][norm]) for m in metrics},
                'costs': {c: spread(_known(runs.values(), c)) for c in COSTS},
                'errors': _errors(scores, norm),
                'curves': _curves(list(runs.values())),
            }
            for norm, runs in of_norm.items()
        },
        'replanned': group.replanned,
        'broken': [
            {key: run.record.get(key) for key in ('norm', 'seed', 'status', 'error')}
            for run in group.broken
        ],
        'missing_scores': note,
    }


def _known(runs: Iterable[Result], key: str) -> list[float]:
    return [value for run in runs if (value := run.number(key)) is not None]


def _values(
    group: ResultGroup, norms: Sequence[str], metric: str
) -> dict[str, list[float]]:
    """A metric of each norm's runs, 0 for one that diverged."""
    values = {norm: _known(group.of(norm).values(), metric) for norm in norms}
    if any(values.values()):  # otherwise the data have no objects of this size
        for norm, of_norm in values.items():
            of_norm += [0.0] * len(group.diverged(norm))
    return values


def _scored(scores: Scores, group: ResultGroup, norm: str, kind: str) -> list[Mapping]:
    """The scores of a norm's runs, 0 for one that diverged; none if one is unknown."""
    found = [scores.get((norm, seed), {}).get(kind) for seed in group.of(norm)]
    known = [scores for scores in found if scores is not None]
    if len(known) < len(found):
        return []
    nothing = {'halves': [0.0] * (len(known[0]['halves']) if known else HALVES)}
    return [*known, *[nothing] * len(group.diverged(norm))]


def _add_false_discovery_rates(
    against: Mapping[str, Mapping[str, dict | None]],
    baseline: str,
    primary: Iterable[Mapping],
) -> None:
    """Give each exploratory comparison of a main metric its ``q`` among them all."""
    compared = [
        found
        for _, _, found in exploratory(against, baseline, primary)
        if found['p'] is not None
    ]
    rates = false_discovery_control([found['p'] for found in compared])
    for found, rate in zip(compared, rates, strict=True):
        found['q'] = float(rate)


def exploratory(
    against: Mapping[str, Mapping[str, dict | None]],
    baseline: str | None,
    primary: Iterable[Mapping],
) -> Iterator[tuple[str, str, dict]]:
    """Norm, main metric and comparison where no primary contrast is about these two."""
    decided = {(c['norm'], c['metric']) for c in primary if c['baseline'] == baseline}
    for norm, metrics in against.items():
        for metric, found in metrics.items():
            if found and metric in MAIN and (norm, metric) not in decided:
                yield norm, metric, found


def _errors(scores: Scores, norm: str) -> dict[str, dict]:
    """What each kind of error costs, over seeds: by box or mask, and kind of error."""
    runs = [of_run for (of, _), of_run in scores.items() if of == norm]
    return {
        kind: {
            error: spread([of_run[kind]['errors'][error] for of_run in runs])
            for error in ERRORS
        }
        for kind in ('bbox', 'segm')
        if runs and all(kind in of_run for of_run in runs)
    }


def _curves(runs: Sequence[Result]) -> dict[str, dict]:
    """Mean and standard deviation over seeds, where all seeds have a point."""
    found = {}
    for name, axis in CURVES.items():
        points = [_points(run, axis, name) for run in runs]
        if common := sorted(set.intersection(*map(set, points))) if points else []:
            values = np.array([[of_run[x] for x in common] for of_run in points])
            deviation = values.std(axis=0, ddof=1).tolist() if len(values) > 1 else None
            found[name] = {
                'x': common, 'mean': values.mean(axis=0).tolist(), 'deviation': deviation
            }  # fmt: skip
    return found


def _points(run: Result, axis: str, curve: str) -> dict[float, float]:
    curves = run.record.get('curves') or {}
    places, values = curves.get(axis) or [], curves.get(curve) or []
    return {
        x: float(y)
        for x, y in zip(places, values, strict=False)
        if y is not None and np.isfinite(y) and y >= 0
    }
