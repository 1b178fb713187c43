"""Writing files whole or not at all."""

import os
from pathlib import Path


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, making its folder; an interruption leaves no part.

    The bytes go to ``<path>.tmp`` first, which then replaces ``path`` in one step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_bytes(data)
    os.replace(temporary, path)
