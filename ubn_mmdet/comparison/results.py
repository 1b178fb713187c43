"""The results of comparisons: a file with one json line a run.

A line says what ran (``comparison``, ``norm``, ``seed``, settings), with which code
(``commit``, ``config_hash``), how it ended (``status``) and what came of it. A file may
hold several comparisons. Lines of one comparison are of one commit and one setting.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ..files import append_line, read_lines

FINISHED, DIVERGED, FAILED = 'finished', 'diverged', 'failed'
NEEDED = (
    *('comparison', 'norm', 'seed'),
    *('commit', 'config_hash', 'setting_hash', 'status'),
)
# Those that say in short how good a detector or a classifier is.
MAIN_METRICS = ('bbox_mAP', 'segm_mAP', 'accuracy_top1')


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
        latest.pop(identity(line), None)
        latest[identity(line)] = line
    return list(latest.values())


def append(path: str | os.PathLike, line: dict) -> None:
    """Add a line at once.

    Raises:
        ResultsError: If the file holds lines of the same comparison of other code or of
            other settings.
    """
    check_same([*read(path), line], path)
    append_line(path, line)


def identity(line: dict) -> tuple:
    """What makes two lines results of the same run: code and resolved config."""
    return line['commit'], line['config_hash']


def check_same(lines: Iterable[dict], where: object) -> None:
    """Refuse lines of one comparison that are of different code or settings.

    Raises:
        ResultsError: Naming the comparison and the difference.
    """
    first: dict[str, dict] = {}
    for line in lines:
        known = first.setdefault(line['comparison'], line)
        for key, what in ('commit', 'code'), ('setting_hash', 'settings'):
            if line[key] != known[key]:
                raise ResultsError(
                    f'{where} holds runs of {line["comparison"]} with other {what} '
                    f'({key} {known[key]}, not {line[key]}): they do not mix. Name '
                    'another file with --results, or go on with --commit'
                )


def metric_name(key: str) -> str:
    """In results: ``bbox_mAP`` for the toolbox's ``coco/bbox_mAP``, ``accuracy_top1``."""
    return key.removeprefix('coco/').replace('/', '_')


def find(lines: Iterable[dict], commit: str, config_hash: str) -> dict | None:
    """The line of a run, if there is one."""
    return next((x for x in lines if identity(x) == (commit, config_hash)), None)
