"""Records: what a folder or a file was made with, kept beside the results.

A run that finds the record of the same settings resumes. One that finds
other settings is refused, with an error that names them.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import write_whole

SHOWN = 5  # names or differences


class RecordError(FileExistsError):
    """The place holds something else; the message says what, or what differs."""


def claim_folder(
    folder: str | os.PathLike,
    name: str,
    record: Mapping,
    content: str,
    beside: Collection[str] = (),
) -> None:
    """Mark ``folder`` as holding what ``record`` describes, or check that it does.

    Args:
        folder: Missing, empty, or claimed before with an equal record.
        name: File name of the record inside the folder.
        record: The settings that the content depends on. Values that json does not
            know are recorded as their ``str``.
        content: What the folder holds, for errors: ``'generated shapes'``.
        beside: Names of files that an empty folder may hold.

    Raises:
        RecordError: If the folder holds anything else.
    """
    folder = Path(folder)
    path = folder / name
    if folder.exists() and not folder.is_dir():
        raise RecordError(f'{folder} is a file; name a folder')
    if path.is_file():
        check_record(folder, read_json(path), record, content)
        return
    if folder.is_dir():
        # An interruption before the record was in place leaves its temporary file.
        ignored = {f'{name}.tmp', *beside}
        if names := sorted({n.name for n in folder.iterdir()} - ignored):
            shown = ', '.join(names[:SHOWN])
            more = ', ...' if len(names) > SHOWN else ''
            raise RecordError(
                f'{folder} holds something else than {content} ({shown}{more}); '
                'name a new or empty folder'
            )
    write_whole(path, json.dumps(record, default=str, indent=1).encode() + b'\n')


def read_json(path: str | os.PathLike) -> Any:
    """The content of a json file; None if there is none, or it is not json."""
    try:
        return json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def check_record(
    place: str | os.PathLike, found: object, record: Mapping, content: str
) -> None:
    """Check a record that was read against the one that is wanted.

    Args:
        place: The file or folder that the record describes.
        found: What was read there.
        record: What is wanted.
        content: What the place holds, for errors.

    Raises:
        RecordError: If they differ; the message names the first differences.
    """
    if not isinstance(found, dict):
        raise RecordError(f'{place} has no readable record of {content}')
    different = list(differences(found, json.loads(json.dumps(record, default=str))))
    if different:
        shown = ', '.join(different[:SHOWN])
        rest = len(different) - SHOWN
        more = f' and {rest} more differences' if rest > 0 else ''
        raise RecordError(
            f'{place} holds {content} with {shown}{more}; delete it or name another'
        )


def differences(found: object, wanted: object) -> Iterator[str]:
    """Where two json values differ: ``'optimizer.lr 0.1 instead of 0.2'``, ...."""
    before, after = dict(_leaves(found)), dict(_leaves(wanted))
    for name in before | after:
        a, b = before.get(name, 'absent'), after.get(name, 'absent')
        if a != b:
            yield f'{name} {_short(a)} instead of {_short(b)}'


def _leaves(value: object, name: str = '') -> Iterator[tuple[str, str]]:
    """Dotted names, and values as text: nan is equal to itself, True is not 1."""
    if not isinstance(value, dict | list) or not value:
        yield name, repr(value)
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(item, f'{name}.{key}' if name else str(key))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f'{text[:57]}...'
