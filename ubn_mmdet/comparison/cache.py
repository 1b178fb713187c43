"""What is kept beside a results file, so that pages need no predictions to be made again.

``<results>.<kind>.json`` is a list, one object for each group of runs.
"""

import json
from pathlib import Path

from ..files import write_whole
from .groups import ResultGroup


def load(group: ResultGroup, kind: str) -> dict | None:
    """What is kept of a group; None if nothing is."""
    return next((x for x in _read(group, kind) if _is_of(x, group)), None)


def save(group: ResultGroup, kind: str, content: dict) -> None:
    """Keep what json can hold of a group, in place of what was kept of it before."""
    others = [x for x in _read(group, kind) if not _is_of(x, group)]
    text = json.dumps([*others, {'settings': group.settings, **content}])
    write_whole(_path(group, kind), text.encode() + b'\n')


def _path(group: ResultGroup, kind: str) -> Path:
    return group.source.with_suffix(f'.{kind}.json')


def _read(group: ResultGroup, kind: str) -> list[dict]:
    path = _path(group, kind)
    return json.loads(path.read_text()) if path.is_file() else []


def _is_of(kept: dict, group: ResultGroup) -> bool:
    return kept['settings'] == group.settings
