"""Starting Python on a copy of the code, and ending it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KILL_AFTER_SECONDS = 20


def start_python(
    code: Path, arguments: list[str], environment: dict[str, str], **streams: Any
) -> subprocess.Popen:
    """Start Python with the package that lies in ``code``, in a session of its own.

    In that folder, because ``python -m`` looks into the current directory first.

    Args:
        code: A copy of the code.
        arguments: Of Python.
        environment: Variables to set beside those of this process.
        **streams: ``stdout`` and ``stderr``, as :class:`subprocess.Popen` takes them.
    """
    inherited = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    path = [str(code), *(os.path.abspath(p) for p in inherited if p)]
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=code,
        env=os.environ | environment | {'PYTHONPATH': os.pathsep.join(path)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **streams,
    )


def end(processes: list[subprocess.Popen]) -> None:
    """Ask processes and their children to end, and wait; kill what does not."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Within it SIGTERM raises ``KeyboardInterrupt``."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
