"""What the runs of a group recorded of condensation."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from ..mm.condensation_file import QUANTITIES
from . import cache
from .groups import Result, ResultGroup

KIND = 'condensation'
MAX_STEPS = 50


def condensation_of(group: ResultGroup) -> list[dict]:
    """The records of a group's runs, thinned, and in numbers; empty if there are none.

    Each has ``norm``, ``seed``, ``summary`` and ``map``: ``layers``, ``steps`` (the last
    of each block of steps) and the means over blocks, ``(blocks, layers)`` lists with
    None where there is no number. Maps of each norm's first run are kept for when the
    records are gone; the others' are then None.
    """
    found = [(run, run.file(KIND)) for run in group.runs]
    contents = [(run, json.loads(path.read_text())) for run, path in found if path]
    # A run may have ended before its first step to be recorded.
    records = [_record(run, content) for run, content in contents if content['steps']]
    known = cache.load(group, KIND) or {'runs': []}
    if not records:
        return known['runs']
    by_run = {(r['norm'], r['seed']): r for r in [*known['runs'], *records]}
    runs = [(run.norm, run.seed) for run in group.runs]
    records = [by_run[run] for run in runs if run in by_run]
    cache.save(group, KIND, {'runs': _first_maps(records)})
    return records


def _record(run: Result, content: dict) -> dict:
    maps = {
        name: np.array(content.get(name), dtype=float)  # None becomes nan
        for name in QUANTITIES
    }
    maps = {name: rows for name, rows in maps.items() if np.isfinite(rows).any()}
    return {
        'norm': run.norm,
        'seed': run.seed,
        'summary': _summary(maps),
        'map': {
            'layers': content['layers'],
            'steps': [int(block[-1]) for block in _blocks(content['steps'])],
            **{name: _thin(rows) for name, rows in maps.items()},
        },
    }


def _summary(maps: dict[str, np.ndarray]) -> dict:
    """Means over layers and steps, and the extremes that decide about the gate."""
    reductions: dict[str, tuple[str, Callable]] = {
        'mean_condensation': ('condensation', np.nanmean),
        'lowest_condensation': ('condensation', np.nanmin),
        'highest_condensation': ('condensation', np.nanmax),
        'lowest_average': ('average', np.nanmin),
        'closed': ('gate', lambda gate: 1 - np.nanmean(gate)),
        'mean_shift': ('shift', np.nanmean),
    }
    return {
        key: float(reduce(maps[name])) if name in maps else None
        for key, (name, reduce) in reductions.items()
    }


def _blocks(rows: Sequence | np.ndarray) -> list[np.ndarray]:
    return np.array_split(np.asarray(rows), min(MAX_STEPS, len(rows)))


def _thin(rows: np.ndarray) -> list[list[float | None]]:
    known = [np.isfinite(block) for block in _blocks(rows)]
    sums = [np.nansum(block, axis=0) for block in _blocks(rows)]
    return [
        [
            float(f'{s / n:.3g}') if n else None
            for s, n in zip(total, count, strict=True)
        ]
        for total, count in zip(sums, (k.sum(axis=0) for k in known), strict=True)
    ]


def _first_maps(records: list[dict]) -> list[dict]:
    first: dict[str, dict] = {}
    for record in records:
        if record['map'] is not None:
            first.setdefault(record['norm'], record)
    return [r if first.get(r['norm']) is r else {**r, 'map': None} for r in records]
