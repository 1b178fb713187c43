"""Runs of a comparison as jobs of a cluster, through submitit.

A job is one run. It goes on when this process ends; the same command later collects it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

from ..files import write_whole
from .launchers import Job
from .processes import children_outlive_the_terminal, end, is_running, start_run
from .workspace import ComparisonError, Planned

CLUSTERS = 'local', 'slurm'
DAY = 24 * 60  # minutes


class ClusterRun:
    """What a job does: one run, in processes of its own; its value is the exit status."""

    def __init__(self, specification: str) -> None:
        self.specification = specification
        self._process: Popen | None = None

    def __call__(self) -> int:
        """Start the run, or go on with it."""
        self._process = start_run(Path(self.specification))
        return self._process.wait()

    def checkpoint(self) -> Any:
        """What submitit is to queue again when the cluster takes the machine back."""
        from submitit.helpers import DelayedSubmission

        end([self._process] if self._process else [])
        return DelayedSubmission(ClusterRun(self.specification))


class ClusterJob:
    """A job of the cluster."""

    def __init__(self, planned: Planned, job: Any, cluster: str) -> None:
        self.planned = planned
        self._job = job
        self._is_local = cluster == 'local'

    def ended(self) -> bool:
        """Whether the cluster, or what the job left, says so."""
        if self._is_local and not self._job.paths.result_pickle.exists():
            # submitit itself knows only the processes that it has started itself.
            return not is_running(int(self._job.job_id))
        return self._job.done()

    def how_it_ended(self) -> str:
        """Its exit status, or what the cluster says."""
        error = self._job.exception()
        how = f'exit status {self._job.result()}' if error is None else str(error)
        return f'job {self._job.job_id}: {how}'


class ClusterLauncher:
    """Submits runs; each has its own share of a machine.

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
            self._executor = submitit.AutoExecutor(folder.resolve(), cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, TypeError, ValueError, NameError) as error:
            raise ComparisonError(f'--cluster {cluster}: {error}') from None
        self._folder = folder.resolve()
        self._cluster = cluster
        self._job_class = {'local': submitit.LocalJob, 'slurm': submitit.SlurmJob}
        self._cores, self._processes = parameters['cpus_per_task'], processes
        # The stand-in has no queue: everything would start at once.
        self._limit = (jobs or 1) if cluster == 'local' else None

    def threads(self) -> int:
        """A share of the job's cores."""
        return max(1, self._cores // self._processes)

    def room(self, under_way: int, waiting: int) -> int:
        """All of them, where the cluster queues."""
        if self._limit is None:
            return waiting
        # More than the limit may have been found from an earlier call.
        return max(0, min(waiting, self._limit - under_way))

    def start(self, planned: Sequence[Planned], lock: int) -> list[ClusterJob]:
        """Submit runs as one array, and note their jobs. They do not hold the lock."""
        calls = [ClusterRun(str(each.specification_file)) for each in planned]
        with children_outlive_the_terminal():
            jobs = self._executor.submit_array(calls)
            for each, job in zip(planned, jobs, strict=True):
                note = {'cluster': self._cluster, 'job': job.job_id}
                write_whole(each.submission_file, json.dumps(note).encode())
        return [
            ClusterJob(each, job, self._cluster)
            for each, job in zip(planned, jobs, strict=True)
        ]

    def find(self, planned: Planned) -> ClusterJob | None:
        """The job that was submitted for a run, if it has not been collected.

        Raises:
            ComparisonError: If it was submitted to another cluster.
        """
        note = planned.submission()
        if note is None:
            return None
        if note['cluster'] != self._cluster:
            raise ComparisonError(
                f'{planned.run} was submitted with --cluster {note["cluster"]}: collect '
                f'it with that, or delete {planned.submission_file}'
            )
        job = self._job_class[self._cluster](self._folder, note['job'])
        return ClusterJob(planned, job, self._cluster)

    def leave(self, jobs: Sequence[Job]) -> None:
        """They go on."""

    def forget(self, planned: Planned) -> None:
        """The run is collected."""
        planned.submission_file.unlink(missing_ok=True)
