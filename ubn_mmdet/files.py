"""Files that an interruption leaves whole: written at once, or line by line."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, making its folder; an interruption leaves no part.

    The bytes go to ``<path>.tmp`` first, which then replaces ``path`` in one step. Both
    are on the disk when this returns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    with open(temporary, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: str | os.PathLike, line: Mapping) -> None:
    """Add a line of json, making the file if need be; it is on the disk afterwards.

    What an interruption has left of a line before gives way to it. A whole line that only
    lacks its end, as some editors leave it, stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+b') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: two may add at once
        file.seek(0)
        lines, end, last = file.read().rpartition(b'\n')
        if _is_json(last):
            file.write(b'\n')
        else:
            file.truncate(len(lines + end))
        file.write(json.dumps(line).encode() + b'\n')
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The lines of a file of :func:`append_line`, without a last one that is cut short.

    Raises:
        ValueError: For a line that is not json.
    """
    lines = Path(path).read_text().split('\n')
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # it lacks its end
                break
            raise ValueError(f'{path}, line {number} is not json: {line:.60}') from None
    return found


def _is_json(text: str | bytes) -> bool:
    """Whether that is a whole line, as no part of an object is json."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
