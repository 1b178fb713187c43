"""What starts the runs of a comparison: processes of this machine, or jobs of a cluster."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, TypeAlias

from ..files import write_whole
from .workspace import ComparisonError

CLUSTERS = 'local', 'slurm'
DAY = 24 * 60  # minutes
RESUMPTIONS = 1000  # of a job whose time is over; by default submitit gives up after 3
# In a run's folder: what its process is started with and what it leaves, and which job of a
# cluster it was given to, ``{'cluster': ..., 'job': ...}``, until that is collected.
SPECIFICATION, CONFIG, RESULT = 'run.json', 'config.pkl', 'result.json'
SUBMISSION = 'job.json'
KILL_AFTER_SECONDS = 20
TAKEN_BACK_SECONDS = 600  # by then a machine is gone
# What torchrun tells the processes of a training. A run that is started below another
# training is none of it.
_RANKS = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
_OF_RANKS = ('LOCAL_', 'GROUP_', 'ROLE_', 'TORCHELASTIC_')
_PR_SET_PDEATHSIG = 1  # of Linux
_libc = ctypes.PyDLL(None)


class LocalLauncher:
    """Runs side by side on this machine, which end with this process.

    Args:
        jobs: Runs side by side.
        gpus: Of those that this process may see, the indices of those to be used; none
            for the CPU.
        processes: Of each run.

    Attributes:
        cluster: What runs are given to; None for this process itself.
        jobs: Runs that share a machine; None if each has its own share.
        limit: Runs at once; None for as many as there are.
        threads: Of each process of a run: a share of the cores, and no more than
            OMP_NUM_THREADS. With it two comparisons at once need not wait for each other.

    Raises:
        ComparisonError: If a run has more processes than there are GPUs.
    """

    cluster = None

    def __init__(self, jobs: int, gpus: Sequence[int] = (), processes: int = 1) -> None:
        if gpus and processes > len(gpus):
            raise ComparisonError(
                f'a run has {processes} processes, and there are {len(gpus)} GPUs for '
                'them: change processes, and batch_size with it, in the comparison'
            )
        self.jobs = self.limit = jobs
        self.threads = max(1, len(os.sched_getaffinity(0)) // (jobs * processes))
        limit = os.environ.get('OMP_NUM_THREADS', '').split(',')[0]
        if limit.isdigit() and int(limit) > 0:
            self.threads = min(self.threads, int(limit))
        self._gpus, self._processes = gpus, processes
        self._slots: dict[int, Popen] = {}

    def gpus_of(self, slot: int) -> str:
        """``CUDA_VISIBLE_DEVICES`` of a run in one of the ``jobs`` places."""
        if not self._gpus:
            return ''
        outer = os.environ.get('CUDA_VISIBLE_DEVICES')
        places = range(slot * self._processes, (slot + 1) * self._processes)
        chosen = [self._gpus[i % len(self._gpus)] for i in places]
        names = None if outer is None else outer.split(',')
        return ','.join(names[i] if names else str(i) for i in chosen)

    def start(self, folders: Sequence[Path], lock: int) -> list[Popen]:
        """Start each in a free place; they hold the work folder's lock, too."""
        self._slots = {s: job for s, job in self._slots.items() if job.poll() is None}
        free = (slot for slot in range(self.jobs) if slot not in self._slots)
        jobs = []
        for slot, folder in zip(free, folders, strict=False):
            gpus = {'CUDA_VISIBLE_DEVICES': self.gpus_of(slot)}
            self._slots[slot] = start_run(folder, gpus, held=[lock])
            jobs.append(self._slots[slot])
        return jobs

    def how_it_ended(self, job: Popen) -> str | None:
        """The signal or exit status of a process; None while it runs."""
        code = job.poll()
        if code is None:
            return None
        return f'signal {-code}' if code < 0 else f'exit status {code}'

    def leave(self, jobs: Sequence[Popen]) -> None:
        """Called at an interruption: end them, the next call resumes them."""
        end(jobs)


@dataclass
class ClusterRun:
    """What a job does: one run, in processes of its own; its value is the exit status."""

    folder: Path
    process: Popen | None = None

    def __call__(self) -> int:
        """Start the run, or go on with it."""
        told = []
        before = signal.getsignal(signal.SIGTERM)

        def note(number: int, frame: Any) -> None:
            told.append(number)
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, note)
        self.process = start_run(self.folder)
        status = self.process.wait()
        if told and not (self.folder / RESULT).exists():
            # A cluster that takes a machine back ends all processes at once. To return
            # now would be a result; what queues the job again is still to come.
            time.sleep(TAKEN_BACK_SECONDS)
        return status

    def checkpoint(self) -> Any:
        """What submitit is to queue again when the cluster takes the machine back."""
        from submitit.helpers import DelayedSubmission

        end([self.process] if self.process else [])
        return DelayedSubmission(ClusterRun(self.folder))


class ClusterLauncher:
    """Submits each run as a job, through submitit; jobs go on when this process ends.

    Attributes are those of :class:`LocalLauncher`.

    Args:
        folder: Where submitit keeps its files; on a disk that all machines share.
        cluster: ``'slurm'``, or ``'local'`` for submitit's stand-in on this machine.
        processes: Of each run.
        workers: Processes that load data for each of these.
        jobs: Jobs at once; None for as many as the cluster gives.
        options: Parameters of submitit's ``AutoExecutor``, in place of ours: 24 hours, a
            GPU a process, and for each process a core besides those of its workers.

    Raises:
        ComparisonError: If submitit is missing, or cannot submit to this cluster.
    """

    jobs = None

    def __init__(
        self,
        folder: Path,
        cluster: str,
        processes: int,
        workers: int = 0,
        jobs: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise ComparisonError(
                '--cluster needs submitit: pip install submitit'
            ) from None
        parameters = {
            'name': 'compare-norms',
            'timeout_min': DAY,
            'gpus_per_node': processes,
            'cpus_per_task': processes * (workers + 1),
            'stderr_to_stdout': True,
            **(options or {}),
        }
        if jobs is not None:
            parameters['slurm_array_parallelism'] = jobs
        try:
            self._executor = submitit.AutoExecutor(
                folder.resolve(), cluster=cluster, slurm_max_num_timeout=RESUMPTIONS
            )
            self._executor.update_parameters(**parameters)
        except (RuntimeError, TypeError, ValueError, NameError) as error:
            raise ComparisonError(f'--cluster {cluster}: {error}') from None
        self.cluster = cluster
        # The stand-in has no queue: everything would start at once.
        self.limit = (jobs or 1) if cluster == 'local' else None
        self.threads = max(1, parameters['cpus_per_task'] // processes)
        self._folder = folder.resolve()
        jobs_of = {'local': submitit.LocalJob, 'slurm': submitit.SlurmJob}
        self._job_class = jobs_of[cluster]

    def start(self, folders: Sequence[Path], lock: int) -> list:
        """Submit runs as one array, and note their jobs. They do not hold the lock."""
        with children_outlive_the_terminal():
            jobs = self._executor.submit_array([*map(ClusterRun, folders)])
            for folder, job in zip(folders, jobs, strict=True):
                note = {'cluster': self.cluster, 'job': job.job_id}
                write_whole(folder / SUBMISSION, json.dumps(note).encode())
        return list(jobs)

    def find(self, job_id: str) -> Any:
        """A job that was submitted before."""
        return self._job_class(self._folder, job_id)

    def how_it_ended(self, job: Any) -> str | None:
        """The exit status, or what the cluster says; None while it may go on."""
        if self.cluster == 'local' and not job.paths.result_pickle.exists():
            # submitit itself knows only the processes that it has started itself.
            if is_running(int(job.job_id)):
                return None
        elif not job.done():
            return None
        error = job.exception()
        how = f'exit status {job.result()}' if error is None else str(error)
        return f'job {job.job_id}: {how}'

    def leave(self, jobs: Sequence) -> None:
        """Called at an interruption: they go on."""


Launcher: TypeAlias = LocalLauncher | ClusterLauncher


def start_run(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    held: Collection[int] = (),
) -> Popen:
    """Start the run that the ``run.json`` of a folder describes; its log goes there.

    It is a session of its own, which is terminated when this process is gone. ``held`` are
    descriptors of files that it keeps open, as a lock is.
    """
    path = folder / SPECIFICATION
    spec = json.loads(path.read_text())
    command = [sys.executable, '-m']
    if spec['processes'] > 1:
        command += ['torch.distributed.run', '--standalone']
        command += [f'--nproc_per_node={spec["processes"]}', '-m']
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in _RANKS and not key.startswith(_OF_RANKS)
    }
    inherited = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    places = [spec['code'], *(os.path.abspath(p) for p in inherited if p)]
    threads = dict.fromkeys(
        ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(spec['threads'])
    )
    variables = {
        **threads,
        **(environment or {}),
        'PYTHONPATH': os.pathsep.join(places),
    }
    with open(folder / 'log.txt', 'ab') as log:
        return Popen(
            [*command, 'ubn_mmdet.comparison.training.run', str(path)],
            cwd=spec['code'],  # python -m looks into the current directory first
            env=own | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            pass_fds=tuple(held),
        )


def end(processes: Collection[Popen]) -> None:
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
