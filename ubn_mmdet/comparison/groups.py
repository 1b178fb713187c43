"""Results files: which runs may stand in one table.

Runs that differ in anything but norm and seed, also in the code, the device and the
versions that made them, are never compared.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import results
from .results import ResultsError

# What a run that failed does not know of itself.
MADE_WITH = ('device', 'versions')
SETTINGS = (
    *('comparison', 'data', 'detector', 'epochs', 'image_size', 'batch_size'),
    *('processes', 'commit', 'setting_hash', *MADE_WITH),
)


@dataclass(frozen=True)
class Result:
    """One line of a results file.

    Attributes:
        record: The line.
        folder: What the paths in the record are relative to.
    """

    record: dict
    folder: Path

    @property
    def norm(self) -> str:
        """The name of the norm in the comparison."""
        return self.record['norm']

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.record['seed']

    def number(self, key: str) -> float | None:
        """A number of the record; None if it is absent, not finite, or COCO's -1."""
        value = self.record.get(key)
        if value is None or not math.isfinite(value) or value < 0:
            return None
        return float(value)

    def file(self, key: str) -> Path | None:
        """The file that the record names; None if it names none or it is gone."""
        name = self.record.get(key)
        path = self.folder / name if name else None
        return path if path is not None and path.is_file() else None


@dataclass(frozen=True)
class ResultGroup:
    """Runs that differ in norm and seed alone.

    Attributes:
        settings: What they share, by the names in ``SETTINGS``.
        source: The results file (of the first run).
        runs: The finished ones, one for each norm and seed.
        broken: Those that diverged or failed, and were not repeated with success.
    """

    settings: dict
    source: Path
    runs: tuple[Result, ...]
    broken: tuple[Result, ...]

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the norms in the order of the file."""
        return tuple(dict.fromkeys(run.norm for run in (*self.runs, *self.broken)))

    def of(self, norm: str) -> dict[int, Result]:
        """The finished runs of a norm by seed, ascending."""
        return dict(sorted((r.seed, r) for r in self.runs if r.norm == norm))

    def diverged(self, norm: str) -> list[int]:
        """The seeds with which a norm diverged."""
        return sorted(
            run.seed
            for run in self.broken
            if run.norm == norm and run.record['status'] == results.DIVERGED
        )

    def primary(self) -> list[dict]:
        """The contrasts that were named before the first of the runs, and ever since."""
        named = [run.record.get('primary') or [] for run in (*self.runs, *self.broken)]
        return [
            contrast
            for contrast in named[0]
            if contrast.get('metric') in results.MAIN_METRICS
            and all(contrast in each for each in named)
        ]


def read_groups(
    paths: Iterable[str | os.PathLike], work_dir: str | os.PathLike | None = None
) -> list[ResultGroup]:
    """Read results files and sort their runs into groups, in order of appearance.

    Of several runs of one norm and seed the last finished one counts.

    Args:
        paths: The files.
        work_dir: What paths in the lines are relative to; by default the file's folder.

    Raises:
        ResultsError: If a file cannot be read, or a norm has two meanings in a group.
    """
    read: list[tuple[Result, Path]] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise ResultsError(f'there is no results file {path}')
        folder = path.parent if work_dir is None else Path(work_dir)
        read += [(Result(line, folder), path) for line in results.read(path)]
    # Those that know less of themselves find their place among the others.
    read.sort(key=lambda of_file: not _knows_how_it_was_made(of_file[0]))
    found: dict[str, list[Result]] = {}
    sources: dict[str, Path] = {}
    for run, path in read:
        key = json.dumps(_settings(run))
        if not _knows_how_it_was_made(run):
            key = next((k for k, runs in found.items() if _fits(run, runs[0])), key)
        found.setdefault(key, []).append(run)
        sources.setdefault(key, path)
    return [_group(runs, sources[key]) for key, runs in found.items()]


def _knows_how_it_was_made(run: Result) -> bool:
    return any(run.record.get(name) is not None for name in MADE_WITH)


def _fits(run: Result, other: Result) -> bool:
    """Whether a run may have been made like another one, as far as it knows."""
    known = [name for name in SETTINGS if name not in MADE_WITH]
    return all(run.record.get(name) == other.record.get(name) for name in known)


def _settings(run: Result) -> dict:
    return {key: run.record.get(key) for key in SETTINGS}


def _group(runs: list[Result], source: Path) -> ResultGroup:
    finished: dict[tuple, Result] = {}
    broken: dict[tuple, Result] = {}
    meanings: dict[str, list] = {}
    for run in runs:
        is_finished = run.record['status'] == results.FINISHED
        (finished if is_finished else broken)[run.norm, run.seed] = run
        meaning = [run.record.get('norm_cfg'), run.record.get('options')]
        known = meanings.setdefault(run.norm, meaning)
        if known != meaning:
            raise ResultsError(
                f'{source}: {run.norm} has two meanings in {run.record["comparison"]}: '
                f'{known} and {meaning}'
            )
    return ResultGroup(
        settings=_settings(runs[0]),
        source=source,
        runs=tuple(finished.values()),
        broken=tuple(run for key, run in broken.items() if key not in finished),
    )


def titles(groups: list[ResultGroup]) -> list[str]:
    """A name for each group: its comparison, and what sets it apart from its namesakes."""
    names = []
    for group in groups:
        name = str(group.settings['comparison'])
        namesakes = [
            g.settings for g in groups if str(g.settings['comparison']) == name
        ]
        for key in SETTINGS[1:]:
            value = group.settings[key]
            if any(s[key] != value for s in namesakes):
                shown = as_text(value)
                if key in ('commit', 'setting_hash'):
                    shown = shown[:10]
                name += f', {key.replace("_", " ")} {shown}'
        names.append(name)
    return names


def as_text(value: object) -> str:
    """A setting as a reader sees it: ``torch 2.13.0, mmdet 3.3.0`` of a dict."""
    if isinstance(value, dict):
        return ', '.join(f'{key} {item}' for key, item in value.items())
    return str(value)


def slug(text: str) -> str:
    """A text as part of a file name: letters, digits and single dashes."""
    return re.sub('[^A-Za-z0-9]+', '-', text).strip('-')
