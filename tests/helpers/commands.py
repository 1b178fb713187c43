"""Running command lines in tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    *command: object, cwd: Path, ok: bool = True, path: str = '', **more: str
) -> str:
    """Run a Python command line in ``cwd``; its output and errors as one text.

    The package is importable, as if it were installed, and so is what lies in the folders
    of ``path``. ``more`` are variables of the environment.
    """
    search = os.pathsep.join(filter(None, [str(ROOT), path]))
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | {'PYTHONPATH': search, 'COLUMNS': '100'} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:]
    return done.stdout
