"""A cache beside a results file, so that pages need no predictions to be made again.

``<results>.<kind>.json`` is a list, one object for each group of runs, and for each
baseline where what is kept depends on one.
"""

import json
from pathlib import Path

from ..files import write_whole
from .groups import ResultGroup


def load(group: ResultGroup, kind: str, **of: str) -> dict | None:
    """What is kept of a group; None if nothing is.

    Args:
        group: The runs.
        kind: Of what is kept.
        of: What it depends on besides, such as the ``baseline``.
    """
    return next((x for x in _read(group, kind) if _is_of(x, group, of)), None)


def save(group: ResultGroup, kind: str, content: dict, **of: str) -> None:
    """Keep what json can hold of a group, in place of what was kept of the same before."""
    others = [x for x in _read(group, kind) if not _is_of(x, group, of)]
    text = json.dumps([*others, {'settings': group.settings, **of, **content}])
    write_whole(_path(group, kind), text.encode() + b'\n')


def _path(group: ResultGroup, kind: str) -> Path:
    return group.source.with_suffix(f'.{kind}.json')


def _read(group: ResultGroup, kind: str) -> list[dict]:
    path = _path(group, kind)
    return json.loads(path.read_text()) if path.is_file() else []


def _is_of(kept: dict, group: ResultGroup, of: dict[str, str]) -> bool:
    # What was kept earlier may name fewer settings.
    settings = kept['settings'].items()
    return all(group.settings.get(key) == value for key, value in settings) and all(
        kept.get(key) == value for key, value in of.items()
    )
