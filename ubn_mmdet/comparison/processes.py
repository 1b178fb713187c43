"""Starting Python on a copy of the code, and ending it."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

KILL_AFTER_SECONDS = 20
# What torchrun tells the processes of a training. A run that is started below another
# training is none of it.
_RANKS = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
_OF_RANKS = ('LOCAL_', 'GROUP_', 'ROLE_', 'TORCHELASTIC_')
_PR_SET_PDEATHSIG = 1  # of Linux
_libc = ctypes.PyDLL(None)


def start_python(
    code: Path, arguments: list[str], environment: Mapping[str, str], **streams: Any
) -> subprocess.Popen:
    """Start Python with the package that lies in ``code``, in a session of its own.

    It is terminated when this process is gone. It runs in that folder, because
    ``python -m`` looks into the current directory first.

    Args:
        code: A copy of the code.
        arguments: Of Python.
        environment: Variables to set beside those of this process.
        **streams: As :class:`subprocess.Popen` takes them.
    """
    inherited = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    path = [str(code), *(os.path.abspath(p) for p in inherited if p)]
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in _RANKS and not key.startswith(_OF_RANKS)
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=code,
        env={**own, **environment, 'PYTHONPATH': os.pathsep.join(path)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        **streams,
    )


def start_run(
    specification: Path,
    environment: Mapping[str, str] | None = None,
    held: Collection[int] = (),
) -> subprocess.Popen:
    """Start the run that a ``run.json`` describes; its log goes beside that file.

    Args:
        specification: The file.
        environment: Variables to set.
        held: Descriptors of files that the run keeps open, as a lock is.
    """
    spec = json.loads(specification.read_text())
    processes = spec['comparison']['processes']
    command = ['-m']
    if processes > 1:
        command += ['torch.distributed.run', '--standalone']
        command += [f'--nproc_per_node={processes}', '-m']
    threads = str(spec['threads'])
    variables = {'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
    with open(specification.with_name('log.txt'), 'ab') as log:
        return start_python(
            Path(spec['code']),
            [*command, 'ubn_mmdet.comparison.training.run', str(specification)],
            {**variables, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(held),
        )


def end(processes: Collection[subprocess.Popen]) -> None:
    """Ask processes and their children to end, and wait; kill what does not.

    It may be called by a signal's handler, while the process is waited for elsewhere.
    """
    patience = time.monotonic() + KILL_AFTER_SECONDS
    for number in signal.SIGTERM, signal.SIGKILL:
        for process in processes:
            if is_running(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        while any(is_running(p.pid) for p in processes) and time.monotonic() < patience:
            time.sleep(0.1)


@contextlib.contextmanager
def children_outlive_the_terminal() -> Iterator[None]:
    """What is started within it ends neither by Ctrl-C nor when the terminal closes."""
    signals = signal.SIGINT, signal.SIGHUP
    before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def is_running(process: int) -> bool:
    """Whether there is a process with this id on this machine, and it has not ended."""
    try:
        state = Path(f'/proc/{process}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(')')[2].split()[0] != 'Z'
