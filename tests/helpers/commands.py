"""Running command lines in tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path, ok: bool = True) -> str:
    """Run a Python command line in ``cwd``; its output and errors as one text.

    The package is importable, as if it were installed.
    """
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'COLUMNS': '100'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:]
    return done.stdout
