"""The results of comparisons: one json line per run, and who stands beside whom.

A line says what ran (``comparison``, ``norm``, ``seed``, settings), with which code
(``commit``, ``config_hash``), how it ended (``status``) and what came of it. A file may
hold several comparisons. Lines of one comparison are of one commit and one setting.

Runs that differ in anything but norm and seed, also in the code, the device and the
versions that made them, are never compared.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import append_line, read_lines

FINISHED, DIVERGED, FAILED = 'finished', 'diverged', 'failed'
NEEDED = (
    'comparison', 'norm', 'seed',
    'commit', 'config_hash', 'setting_hash', 'status', 'planned',
)  # fmt: skip
# Those that say in short how good a detector or a classifier is.
MAIN_METRICS = ('bbox_mAP', 'segm_mAP', 'accuracy_top1')
EVALUATED = ('coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1')  # the toolbox's names
# What a run that failed does not know of itself.
MADE_WITH = ('device', 'versions')
SETTINGS = (
    'comparison', 'data', 'detector', 'epochs', 'image_size', 'batch_size',
    'processes', 'commit', 'setting_hash', *MADE_WITH,
)  # fmt: skip


class ResultsError(ValueError):
    """Results that are damaged or do not belong together."""


def read(path: str | os.PathLike) -> list[dict]:
    """The lines of a file, oldest first; none if there is no file.

    Where a run has several lines, because it failed and was tried again, the last counts.

    Raises:
        ResultsError: For a line that is no result.
    """
    if not Path(path).exists():
        return []
    try:
        lines = read_lines(path)
    except ValueError as error:
        raise ResultsError(str(error)) from None
    latest: dict[tuple, dict] = {}
    for number, line in enumerate(lines, 1):
        if missing := [key for key in NEEDED if key not in line]:
            raise ResultsError(f'{path}, line {number} has no {missing[0]!r}')
        latest.pop(run_of(line), None)
        latest[run_of(line)] = line
    return list(latest.values())


def append(path: str | os.PathLike, line: dict) -> None:
    """Add a line at once, if it may stand there (:func:`check_same`)."""
    check_same([*read(path), line], path)
    append_line(path, line)


def identity(line: dict) -> tuple:
    """What makes two results the same numbers: code and resolved config."""
    return line['commit'], line['config_hash']


def run_of(line: dict) -> tuple:
    """Which run a line is of: two norms of a comparison may have equal configs."""
    return line['comparison'], line['norm'], *identity(line)


def check_same(lines: Iterable[dict], where: object) -> None:
    """Refuse lines of one comparison that are of different code or settings.

    The settings of a norm may change after runs that failed, which are tried again.

    Raises:
        ResultsError: Naming the comparison and the difference.
    """
    first: dict[tuple, dict] = {}
    for line in lines:
        name, norm = line['comparison'], line['norm']
        for of, key, what in (
            ((name,), 'commit', 'code'),
            ((name,), 'setting_hash', 'settings'),
            ((name, norm), 'norm_hash', f'settings, weights or code of {norm}'),
        ):
            if key == 'norm_hash' and line.get('status') == FAILED:
                continue
            known = first.setdefault((*of, key), line)
            if line.get(key) != known.get(key):
                raise ResultsError(
                    f'{where} holds runs of {name} with other {what} '
                    f'({key} {known.get(key)}, not {line.get(key)}). One file cannot '
                    'have both: name another with --results, or go on with --commit'
                )


def made_elsewhere(lines: Iterable[dict]) -> str:
    """What to say of runs that a change of device or versions has set apart, or nothing.

    Lines of a run that failed do not know with what it was made.
    """
    made = {
        tuple(as_text(line[key]) for key in MADE_WITH): None
        for line in lines
        if all(key in line for key in MADE_WITH)
    }
    if len(made) < 2:
        return ''
    kinds = '; '.join(', '.join(each) for each in made)
    return (
        f'These runs were made with different devices or versions ({kinds}). A report '
        'puts them into different tables, and a contrast has no verdict until all its '
        'runs are in one. Delete lines of the results file to repeat their runs.'
    )


def metric_name(key: str) -> str:
    """In results: ``bbox_mAP`` for the toolbox's ``coco/bbox_mAP``, ``accuracy_top1``."""
    return key.removeprefix('coco/').replace('/', '_')


def scalars_files(work_dir: str | os.PathLike) -> list[Path]:
    """The toolbox's logs of a run, oldest first; a resumed run begins a new one."""
    return sorted(Path(work_dir).glob('*/vis_data/scalars.json'))


def read_scalars(
    work_dir: str | os.PathLike,
) -> tuple[dict[int, dict], dict[int, dict]]:
    """What the toolbox has logged of a run: ``{iteration: record}, {epoch: record}``.

    The first are of training steps, the others of evaluations. What a resumed run did
    again replaces what it had done.
    """
    training: dict[int, dict] = {}
    evaluation: dict[int, dict] = {}
    for path in scalars_files(work_dir):
        records = []
        for line in path.read_text().splitlines():
            # Hooks write records of their own, longer ones, which take long to parse.
            if not any(f'"{mark}"' in line for mark in ('loss', *EVALUATED)):
                continue
            # The last line of a run that was killed may be half a line.
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        for known, marks in (training, {'loss'}), (evaluation, set(EVALUATED)):
            new = {r['step']: r for r in records if marks & r.keys()}
            first = min(new, default=math.inf)
            for step in [step for step in known if step >= first]:
                del known[step]
            known.update(sorted(new.items()))
    return training, evaluation


@dataclass(frozen=True)
class Result:
    """One line of a results file.

    Attributes:
        record: The line.
        folder: What the paths in the record are relative to.
        source: The file.
    """

    record: dict
    folder: Path
    source: Path

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
        runs: The finished ones, one for each norm and seed.
        broken: Those that diverged or failed, and were not repeated with success.
        planned: The seeds that the comparison has for each norm.
        replanned: The norms whose planned seeds are not the same in all lines.
    """

    settings: dict
    runs: tuple[Result, ...]
    broken: tuple[Result, ...]
    planned: Mapping[str, Sequence[int]] = field(default_factory=dict)
    replanned: tuple[str, ...] = ()

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
            if run.norm == norm and run.record['status'] == DIVERGED
        )

    def ended(self, norm: str) -> set[int]:
        """The seeds with which a norm finished or diverged."""
        return {*self.of(norm), *self.diverged(norm)}

    def missing(self, norm: str) -> list[int]:
        """The planned seeds of a norm whose runs have neither finished nor diverged."""
        return sorted(set(self.planned.get(norm, ())) - self.ended(norm))

    def primary(self) -> list[dict]:
        """The contrasts that were named before the first of the runs, and ever since."""
        named = [run.record.get('primary') or [] for run in (*self.runs, *self.broken)]
        return [
            contrast
            for contrast in named[0]
            if contrast.get('metric') in MAIN_METRICS
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
        ResultsError: If a file cannot be read, or a norm has different settings in a group.
    """
    runs: list[Result] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise ResultsError(f'there is no results file {path}')
        folder = path.parent if work_dir is None else Path(work_dir)
        runs += [Result(line, folder, path) for line in read(path)]
    # Those that know less of themselves find their place among the others.
    runs.sort(key=lambda run: MADE_WITH[0] not in run.record)
    groups: list[tuple[dict, list[Result]]] = []
    for run in runs:
        for settings, members in groups:
            unknown = {key: settings[key] for key in MADE_WITH}
            # A folder may be renamed: what it holds is in the setting_hash.
            renamed = {'data': settings['data']}
            if settings == _settings(unknown | run.record | renamed):
                members.append(run)
                break
        else:
            groups.append((_settings(run.record), [run]))
    return [_group(*each) for each in groups]


def _settings(record: dict) -> dict:
    return {key: record.get(key) for key in SETTINGS}


def _group(settings: dict, runs: list[Result]) -> ResultGroup:
    finished: dict[tuple, Result] = {}
    broken: dict[tuple, Result] = {}
    meanings: dict[str, list] = {}
    plans: dict[str, list[set[int]]] = {}
    for run in runs:
        is_finished = run.record['status'] == FINISHED
        (finished if is_finished else broken)[run.norm, run.seed] = run
        for norm, seeds in run.record['planned'].items():
            plans.setdefault(norm, []).append(set(seeds))
        if run.record['status'] == FAILED:
            continue
        # The hash leaves out what changes no number; older lines have none.
        written = [run.record.get(key) for key in ('norm_cfg', 'options')]
        meaning = run.record.get('norm_hash') or written
        known = meanings.setdefault(run.norm, meaning)
        if known != meaning:
            raise ResultsError(
                f'{run.source}: {run.norm} has different settings in runs of '
                f'{run.record["comparison"]}: {known} and {meaning}'
            )
    return ResultGroup(
        settings=settings,
        runs=tuple(finished.values()),
        broken=tuple(run for key, run in broken.items() if key not in finished),
        planned={norm: sorted(set.union(*each)) for norm, each in plans.items()},
        replanned=tuple(
            norm
            for norm, (first, *_) in plans.items()
            if any(seeds != first for seeds in plans[norm])
        ),
    )


def titles(groups: list[ResultGroup]) -> list[str]:
    """A name for each group: its comparison, and what sets it apart from its namesakes."""
    names = []
    for settings in (group.settings for group in groups):
        name = str(settings['comparison'])
        namesakes = [g.settings for g in groups if g.settings['comparison'] == name]
        for key in SETTINGS[1:]:
            if any(each[key] != settings[key] for each in namesakes):
                shown = as_text(settings[key])
                if key in ('commit', 'setting_hash'):
                    # An installed package's is v0.2.0-<hash>.
                    shown = shown.rpartition('-')[2][:10]
                name += f', {key.replace("_", " ")} {shown}'
        names.append(name)
    return names


def as_text(value: object) -> str:
    """A setting as a reader sees it: ``torch 2.13.0, mmdet 3.3.0`` of a dict."""
    if isinstance(value, dict):
        return ', '.join(f'{key} {item}' for key, item in value.items())
    return str(value)


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """Texts as parts of file names, each another: letters, digits and single dashes."""
    found: dict[str, str] = {}
    for number, text in enumerate(texts, 1):
        name = re.sub('[^A-Za-z0-9]+', '-', text).strip('-')
        if not name or name in found.values():
            name = f'{name}-{number}'.lstrip('-')
        found[text] = name
    return found
