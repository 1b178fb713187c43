"""Results files: which runs may stand in one table.

A results file holds one json object a line, one line a run. Runs that differ in anything
but norm and seed, also in the code that made them, are never compared.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SETTINGS = (
    *('comparison', 'data', 'detector', 'epochs', 'image_size', 'batch_size'),
    'commit',
)
# Not every file has these; where they are, they count as well.
FURTHER_SETTINGS = ('processes', 'setting_hash')
HASHES = ('commit', 'setting_hash')
STATUSES = ('finished', 'diverged', 'failed')


class ResultsError(ValueError):
    """A results file cannot be read; the message says which line and why."""


@dataclass(frozen=True)
class Result:
    """One line of a results file.

    Attributes:
        record: The line.
        folder: The folder of the file, which the paths in the record start from.
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

    @property
    def finished(self) -> bool:
        """Whether the run came to its end with finite numbers."""
        return self.record['status'] == 'finished'

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

    def beside(self, name: str) -> Path | None:
        """A file of the run's folder, which is where its recorded files lie."""
        folders = (self.file(key) for key in ('predictions', 'checkpoint'))
        paths = [file.parent / name for file in folders if file is not None]
        return next((path for path in paths if path.is_file()), None)

    @property
    def identity(self) -> tuple:
        """What tells the run from others of its group, also from an earlier try."""
        return self.norm, self.seed, self.record.get('config_hash')


@dataclass(frozen=True)
class ResultGroup:
    """Runs that differ in norm and seed alone.

    Attributes:
        settings: What they share, by the names in ``SETTINGS``, ``FURTHER_SETTINGS``.
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


def read_groups(paths: Iterable[str | os.PathLike]) -> list[ResultGroup]:
    """Read results files and sort their runs into groups, in order of appearance.

    Of several runs of one norm and seed the last finished one counts.

    Raises:
        ResultsError: If a line is not a run. A last line that was cut off is skipped.
    """
    found: dict[str, list[Result]] = {}
    sources: dict[str, Path] = {}
    for path in map(Path, paths):
        for run in _read(path):
            key = json.dumps(_settings(run))
            found.setdefault(key, []).append(run)
            sources.setdefault(key, path)
    return [_group(runs, sources[key]) for key, runs in found.items()]


def _read(path: Path) -> Iterator[Result]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ResultsError(f'{path} cannot be read: {error.strerror}') from None
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if i == len(lines):
                return
            raise ResultsError(f'{path}, line {i} is not json') from None
        needed = (*SETTINGS, 'norm', 'seed', 'status')
        if not isinstance(record, dict):
            raise ResultsError(f'{path}, line {i} is not an object')
        missing = [key for key in needed if key not in record]
        if missing:
            raise ResultsError(f'{path}, line {i} has no {", ".join(missing)}')
        if record['status'] not in STATUSES:
            allowed = ', '.join(STATUSES)
            raise ResultsError(
                f'{path}, line {i}: status must be one of {allowed}; '
                f'got {record["status"]!r}'
            )
        yield Result(record, path.parent)


def _settings(run: Result) -> dict:
    further = [key for key in FURTHER_SETTINGS if key in run.record]
    return {key: run.record[key] for key in (*SETTINGS, *further)}


def _group(runs: list[Result], source: Path) -> ResultGroup:
    finished, broken = {}, {}
    for run in runs:
        (finished if run.finished else broken)[run.norm, run.seed] = run
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
        for key in (*SETTINGS[1:], *FURTHER_SETTINGS):
            value = group.settings.get(key)
            if any(s.get(key) != value for s in namesakes):
                shown = str(value)[:10] if key in HASHES else value
                name += f', {key.replace("_", " ")} {shown}'
        names.append(name)
    return names


def slug(text: str) -> str:
    """A text as part of a file name: letters, digits and single dashes."""
    return re.sub('[^A-Za-z0-9]+', '-', text).strip('-')
