"""What starts the runs of a comparison: here, processes of this machine."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .processes import end, start_run
from .workspace import ComparisonError, Planned


class Job(Protocol):
    """A run that has been started."""

    planned: Planned

    def ended(self) -> bool:
        """Whether its process is over, with a result or without."""

    def how_it_ended(self) -> str:
        """In a few words, for one that has left no result."""


class Launcher(Protocol):
    """Starts runs, and says when they have ended."""

    @property
    def jobs(self) -> int | None:
        """Runs that share a machine; None if each has its own share."""

    def threads(self) -> int:
        """Of each process of a run."""

    def room(self, under_way: int, waiting: int) -> int:
        """How many of the waiting runs may be started now."""

    def start(self, planned: Sequence[Planned], lock: int) -> Sequence[Job]:
        """Start runs whose specifications are written.

        Args:
            planned: The runs.
            lock: The descriptor of the work folder's lock.
        """

    def find(self, planned: Planned) -> Job | None:
        """The job of a run that was started by an earlier call and need not have ended."""

    def leave(self, jobs: Sequence[Job]) -> None:
        """Called at an interruption, with the jobs that have not ended."""

    def forget(self, planned: Planned) -> None:
        """Called when the end of a run is recorded."""


class LocalJob:
    """A process of this machine."""

    def __init__(self, planned: Planned, process: subprocess.Popen) -> None:
        self.planned = planned
        self.process = process

    def ended(self) -> bool:
        """Whether the process is over."""
        return self.process.poll() is not None

    def how_it_ended(self) -> str:
        """Its signal or exit status."""
        code = self.process.returncode
        return f'signal {-code}' if code < 0 else f'exit status {code}'


class LocalLauncher:
    """Runs side by side on this machine, which end with this process.

    Args:
        jobs: Runs side by side.
        gpus: Of those that this process may see, the indices of those to be used; none
            for the CPU.
        processes: Of each run.

    Raises:
        ComparisonError: If a run has more processes than there are GPUs.
    """

    def __init__(self, jobs: int, gpus: Sequence[int] = (), processes: int = 1) -> None:
        if gpus and processes > len(gpus):
            raise ComparisonError(
                f'a run has {processes} processes, and there are {len(gpus)} GPUs for '
                'them: change processes, and batch_size with it, in the comparison'
            )
        self.jobs = jobs
        self._gpus = gpus
        self._processes = processes
        self._slots: dict[int, LocalJob] = {}

    def threads(self) -> int:
        """A share of the cores, and no more than OMP_NUM_THREADS.

        With it two comparisons at once need not wait for each other's threads.
        """
        cores = len(os.sched_getaffinity(0))
        share = max(1, cores // (self.jobs * self._processes))
        limit = os.environ.get('OMP_NUM_THREADS', '').split(',')[0]
        return min(share, int(limit)) if limit.isdigit() and int(limit) else share

    def gpus_of(self, slot: int) -> str:
        """``CUDA_VISIBLE_DEVICES`` of a run in one of the ``jobs`` places."""
        outer = os.environ.get('CUDA_VISIBLE_DEVICES')
        names = None if outer is None else outer.split(',')
        first = slot * self._processes
        chosen = [
            self._gpus[(first + i) % len(self._gpus)]
            for i in range(self._processes if self._gpus else 0)
        ]
        return ','.join(names[i] if names else str(i) for i in chosen)

    def room(self, under_way: int, waiting: int) -> int:
        """As many as there are free places."""
        return min(waiting, self.jobs - under_way)

    def start(self, planned: Sequence[Planned], lock: int) -> list[LocalJob]:
        """Start each in a free place; they hold the lock for as long as they run."""
        self._slots = {s: job for s, job in self._slots.items() if not job.ended()}
        free = (slot for slot in range(self.jobs) if slot not in self._slots)
        jobs = []
        for slot, each in zip(free, planned, strict=False):
            gpus = {'CUDA_VISIBLE_DEVICES': self.gpus_of(slot)}
            process = start_run(each.specification_file, gpus, held=(lock,))
            self._slots[slot] = LocalJob(each, process)
            jobs.append(self._slots[slot])
        return jobs

    def find(self, planned: Planned) -> None:
        """Nothing: what is started here ends with the process that started it.

        Raises:
            ComparisonError: If the run was given to a cluster and not collected.
        """
        if submission := planned.submission():
            raise ComparisonError(
                f'{planned.run} was submitted with --cluster {submission["cluster"]}: '
                f'collect it with that, or delete {planned.submission_file}'
            )

    def leave(self, jobs: Sequence[Job]) -> None:
        """End them: the next call resumes them."""
        end([job.process for job in self._slots.values() if not job.ended()])

    def forget(self, planned: Planned) -> None:
        """Nothing is kept."""


def log_tail(folder: Path, lines: int) -> str:
    """The end of a run's log."""
    try:
        text = (folder / 'log.txt').read_text(errors='replace')
    except FileNotFoundError:
        return '(it has no log)'
    return '\n'.join(text.splitlines()[-lines:])
