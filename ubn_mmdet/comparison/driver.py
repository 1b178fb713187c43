"""Runs a comparison: each run in a process of its own, from a clean copy of the code."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..files import write_whole
from . import results
from .processes import end, start_python, termination_as_interrupt
from .progress import Progress
from .spec import Comparison, Run
from .workspace import Planned, Workspace, json_if_there

POLL_SECONDS = 0.5
QUIET_SECONDS = 60  # after which the progress is told although nothing has happened
LOG_LINES = 15


@dataclass(frozen=True)
class Resources:
    """What runs share.

    Attributes:
        jobs: Runs side by side.
        gpus: Indices of GPUs; none for the CPU.
    """

    jobs: int
    gpus: tuple[int, ...] = ()

    def threads(self, processes: int) -> int:
        """Of each process: a share of the cores, and no more than OMP_NUM_THREADS.

        With it two comparisons at once need not wait for each other's threads.
        """
        cores = len(os.sched_getaffinity(0))
        share = max(1, cores // (self.jobs * processes))
        limit = os.environ.get('OMP_NUM_THREADS', '').split(',')[0]
        return min(share, int(limit)) if limit.isdigit() and int(limit) else share

    def gpus_of(self, slot: int, processes: int) -> tuple[int, ...]:
        """The GPUs of a run in one of the ``jobs`` places."""
        if not self.gpus:
            return ()
        first = slot * processes
        return tuple(self.gpus[(first + i) % len(self.gpus)] for i in range(processes))


@dataclass
class _Job:
    """A run under way."""

    planned: Planned
    process: subprocess.Popen
    told: int = 0  # epochs


class Driver:
    """One comparison in one folder.

    Args:
        comparison: What to run.
        data: The COCO-format folder.
        work_dir: Where runs go.
        results_file: Where lines go.
        revision: Of the code; None for that which ``work_dir`` was begun with, or HEAD.
        say: Where messages go.

    Raises:
        ComparisonError: If ``work_dir`` is not this comparison's, another process works in
            it, or the data or the comparison cannot be used.
        results.ResultsError: If ``results_file`` has other code's or settings' lines.
    """

    def __init__(
        self,
        comparison: Comparison,
        data: str | os.PathLike,
        work_dir: str | os.PathLike,
        results_file: str | os.PathLike,
        revision: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.comparison = comparison
        self.results_file = Path(results_file)
        self._listener = say
        self._said = time.monotonic()
        self._place = Workspace(work_dir, comparison, data, revision, self._say)
        results.check_same([*self.lines(), self._marks()], self.results_file)

    def lines(self) -> list[dict]:
        """The lines of the results file."""
        return results.read(self.results_file)

    def runs(self) -> list[Run]:
        """All runs of the comparison."""
        return [planned.run for planned in self._place.planned]

    def run(
        self,
        resources: Resources,
        only: Sequence[str] = (),
        seeds: Sequence[int] = (),
    ) -> list[dict]:
        """Do what is not done yet; the lines of all runs that were asked for.

        A run that failed before is tried again. An interruption (``KeyboardInterrupt``,
        or SIGTERM) ends the runs under way, to be resumed by the next call.
        """
        chosen = list(self.comparison.runs(only, seeds))
        planned = [p for p in self._place.planned if p.run in chosen]
        lines = self.lines()
        todo = [
            p
            for p in planned
            if (line := results.find(lines, self._place.commit, p.config_hash)) is None
            or line['status'] == results.FAILED
        ]
        with self._place.lock(), termination_as_interrupt():
            if todo:
                self._work(todo, len(planned), resources)
        lines = self.lines()
        found = (
            results.find(lines, self._place.commit, p.config_hash) for p in planned
        )
        return [line for line in found if line is not None]

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._listener(text)

    def _work(self, todo: list[Planned], total: int, resources: Resources) -> None:
        progress = Progress(total, total - len(todo))
        waiting = []
        for planned in todo:
            # There is one if it was interrupted between a run's end and its line.
            if outcome := planned.result():
                self._finish(planned, outcome, resources, progress)
            else:
                waiting.append(planned)
        jobs: dict[int, _Job] = {}
        try:
            while waiting or jobs:
                free = [slot for slot in range(resources.jobs) if slot not in jobs]
                for slot in free[: len(waiting)]:
                    jobs[slot] = self._start(waiting.pop(0), slot, resources)
                    self._say(f'{progress.head()} {jobs[slot].planned.run}: started')
                time.sleep(POLL_SECONDS)
                for slot, job in list(jobs.items()):
                    self._watch(job, progress)
                    if job.process.poll() is not None:
                        del jobs[slot]
                        ended = job.planned.result() or _failure(job)
                        self._finish(job.planned, ended, resources, progress)
                if jobs and time.monotonic() - self._said > QUIET_SECONDS:
                    state = progress.under_way() or 'starting'
                    self._say(f'{progress.head()} {state}')
        finally:
            end([job.process for job in jobs.values()])

    def _start(self, planned: Planned, slot: int, resources: Resources) -> _Job:
        run, folder = planned.run, planned.folder
        processes = self.comparison.processes
        threads = resources.threads(processes)
        before = planned.specification() or {}
        spec = {
            'comparison': self.comparison.to_dict(),
            'norm': vars(run.norm),
            'seed': run.seed,
            'commit': self._place.commit,
            'config_hash': planned.config_hash,
            'folder': self._place.data,
            'run_dir': str(folder),
            'code': str(self._place.code),
            'directory': os.getcwd(),
            'threads': threads,
            'driver': os.getpid(),
            'started': before.get('started') or _now(),
        }
        path = folder / 'run.json'
        write_whole(path, json.dumps(spec, indent=1).encode())
        command = ['-m']
        if processes > 1:
            command += ['torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={processes}', '-m']
        (folder / 'progress.json').unlink(missing_ok=True)
        gpus = resources.gpus_of(slot, processes)
        environment = {
            'OMP_NUM_THREADS': str(threads),
            'MKL_NUM_THREADS': str(threads),
            'CUDA_VISIBLE_DEVICES': ','.join(map(str, gpus)),
        }
        with open(folder / 'log.txt', 'ab') as log:
            process = start_python(
                self._place.code,
                [*command, 'ubn_mmdet.comparison.training.run', str(path)],
                environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return _Job(planned, process)

    def _watch(self, job: _Job, progress: Progress) -> None:
        state = json_if_there(job.planned.folder / 'progress.json')
        if not state:
            return
        progress.note(str(job.planned.run), state['step'] / max(1, state['steps']))
        # Once an epoch; after the last one the end of the run is told.
        if job.told < state['epoch'] < state['epochs'] and state['metrics']:
            job.told = state['epoch']
            self._say(
                f'{progress.head()} {job.planned.run}: epoch {job.told}/'
                f'{state["epochs"]}, {_metrics(state["metrics"])}'
            )

    def _finish(
        self,
        planned: Planned,
        outcome: dict,
        resources: Resources,
        progress: Progress,
    ) -> None:
        for key in 'predictions', 'checkpoint', 'condensation':
            if key in outcome:
                path = planned.folder / outcome[key]
                outcome[key] = str(path.relative_to(self._place.folder))
        line = {
            **planned.settings,
            **self._marks(),
            'config_hash': planned.config_hash,
            **outcome,
            'started': (planned.specification() or {}).get('started'),
            'finished': _now(),
            'jobs': resources.jobs,
        }
        results.append(self.results_file, line)
        progress.finish(str(planned.run))
        said = line['error'] or _metrics(line)
        self._say(f'{progress.head()} {planned.run}: {line["status"]}, {said}')

    def _marks(self) -> dict:
        return {
            'comparison': self.comparison.name,
            'commit': self._place.commit,
            'setting_hash': self._place.setting_hash,
        }


def _failure(job: _Job) -> dict:
    log = (job.planned.folder / 'log.txt').read_text(errors='replace')
    code = job.process.returncode
    how = f'signal {-code}' if code < 0 else f'exit status {code}'
    tail = '\n'.join(log.splitlines()[-LOG_LINES:])
    return {'status': results.FAILED, 'error': f'{how}\n{tail}'}


def _metrics(record: dict) -> str:
    """The main ones that there are."""
    return ', '.join(
        f'{kind} {record[kind]:.3f}' for kind in results.MAIN_METRICS if kind in record
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
