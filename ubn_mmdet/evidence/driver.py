"""Runs a comparison: each run in a process of its own, from a clean copy of the code.

``work_dir/comparison.json``                    whose folder this is
``work_dir/plan/``                              the runs as they were planned
``work_dir/code/<commit>/``                     the code
``work_dir/<detector>/<norm>/seed<k>/``         a run: log, checkpoint, predictions
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..files import write_whole
from . import code_copy, results
from .plan import Comparison, Run
from .progress import Progress

POLL_SECONDS = 0.5
QUIET_SECONDS = 60  # after which the progress is told although nothing has happened
KILL_AFTER_SECONDS = 20
LOG_LINES = 15


class DriverError(RuntimeError):
    """The comparison cannot be run as asked."""


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
        """Of each process."""
        cores = len(os.sched_getaffinity(0))
        return max(1, cores // (self.jobs * processes))

    def gpus_of(self, slot: int, processes: int) -> tuple[int, ...]:
        """The GPUs of a run in one of the ``jobs`` places."""
        if not self.gpus:
            return ()
        first = slot * processes
        return tuple(self.gpus[(first + i) % len(self.gpus)] for i in range(processes))


@dataclass
class _Planned:
    """A run, what it is recognised by, and where it is."""

    run: Run
    config_hash: str
    settings: dict
    folder: Path

    def specification(self) -> dict | None:
        """What its process was started with."""
        return _read_json(self.folder / 'run.json')

    def result(self) -> dict | None:
        """What its process left at its end."""
        return _read_json(self.folder / 'result.json')


@dataclass
class _Job:
    """A run under way."""

    planned: _Planned
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
        DriverError: If ``work_dir`` is not this comparison's, another process works in
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
        self.work_dir = Path(work_dir).resolve()
        self.results_file = Path(results_file)
        self._listener = say
        self._said = time.monotonic()
        self._data = Path(data).resolve()
        with self._alone():
            self.commit = self._claim(revision)
            self._code = code_copy.clean_copy(self.commit, self.work_dir / 'code')
            self._plan()
            results.check_same([*self.lines(), self._marks()], self.results_file)

    def lines(self) -> list[dict]:
        """The lines of the results file."""
        return results.read(self.results_file)

    def runs(self) -> list[Run]:
        """All runs of the comparison."""
        return [planned.run for planned in self._planned]

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
        planned = [p for p in self._planned if p.run in chosen]
        lines = self.lines()
        todo = [
            p
            for p in planned
            if (line := results.find(lines, self.commit, p.config_hash)) is None
            or line['status'] == results.FAILED
        ]
        with self._alone(), _termination_as_interrupt():
            if todo:
                self._work(todo, len(planned), resources)
        lines = self.lines()
        found = (results.find(lines, self.commit, p.config_hash) for p in planned)
        return [line for line in found if line is not None]

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._listener(text)

    def _work(self, todo: list[_Planned], total: int, resources: Resources) -> None:
        progress = Progress(total, total - len(todo))
        # Interrupted between a run's end and its line.
        for planned in (p for p in todo if p.result()):
            self._finish(planned, planned.result(), resources, progress)
        waiting = [p for p in todo if not p.result()]
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
                        outcome = job.planned.result() or _failure(job)
                        self._finish(job.planned, outcome, resources, progress)
                if jobs and time.monotonic() - self._said > QUIET_SECONDS:
                    state = progress.under_way() or 'starting'
                    self._say(f'{progress.head()} {state}')
        finally:
            _end([job.process for job in jobs.values()])

    def _start(self, planned: _Planned, slot: int, resources: Resources) -> _Job:
        run, folder = planned.run, planned.folder
        processes = self.comparison.processes
        threads = resources.threads(processes)
        before = planned.specification() or {}
        spec = {
            'comparison': self.comparison.to_dict(),
            'norm': vars(run.norm),
            'seed': run.seed,
            'commit': self.commit,
            'config_hash': planned.config_hash,
            'folder': self._folder,
            'run_dir': str(folder),
            'code': str(self._code),
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
            process = self._python(
                [*command, 'ubn_mmdet.mm.comparison.run', str(path)],
                environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return _Job(planned, process)

    def _watch(self, job: _Job, progress: Progress) -> None:
        state = _read_json(job.planned.folder / 'progress.json')
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
        planned: _Planned,
        outcome: dict,
        resources: Resources,
        progress: Progress,
    ) -> None:
        for key in 'predictions', 'checkpoint', 'condensation':
            if key in outcome:
                path = planned.folder / outcome[key]
                outcome[key] = str(path.relative_to(self.work_dir))
        line = {
            **planned.settings,
            **self._marks(),
            'config_hash': planned.config_hash,
            **outcome,
            'started': planned.specification()['started'],
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
            'commit': self.commit,
            'setting_hash': self._setting_hash,
        }

    def _claim(self, revision: str | None) -> str:
        """The commit of this folder, which stays the same over its life."""
        record = self.work_dir / 'comparison.json'
        known = _read_json(record)
        if known is None:
            others = {p.name for p in self.work_dir.iterdir()} - {'.lock'}
            if others:
                raise DriverError(
                    f'{self.work_dir} is not empty, and holds no comparison: delete it, or '
                    'name another with --work-dir'
                )
            commit = code_copy.resolve_commit(revision or 'HEAD')
            content = {'comparison': self.comparison.name, 'commit': commit}
            write_whole(record, json.dumps(content).encode())
            self._note_changes(commit)
            return commit
        if known['comparison'] != self.comparison.name:
            raise DriverError(
                f'{self.work_dir} holds the comparison {known["comparison"]}: name '
                'another with --work-dir'
            )
        commit = known['commit']
        if revision is not None and code_copy.resolve_commit(revision) != commit:
            raise DriverError(
                f'{self.work_dir} was begun with the code of {commit[:12]}: for other '
                'code name another with --work-dir'
            )
        self._say(f'Going on in {self.work_dir} with the code of {commit[:12]}')
        self._note_changes(commit)
        return commit

    def _note_changes(self, commit: str) -> None:
        if code_copy.has_uncommitted_changes():
            self._say(f'Uncommitted changes are no part of this: it runs {commit[:12]}')

    def _plan(self) -> None:
        """Let the code of the commit check the settings and name the runs."""
        folder = self.work_dir / 'plan'
        spec = {
            'comparison': self.comparison.to_dict(),
            'data': str(self._data),
            'work_dir': str(self.work_dir),
            'code': str(self._code),
            'directory': os.getcwd(),
        }
        path = folder / 'comparison.json'
        write_whole(path, json.dumps(spec).encode())
        process = self._python(
            ['-m', 'ubn_mmdet.mm.comparison.describe', str(path)],
            {},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _, errors = process.communicate()
        if process.returncode:
            raise DriverError(errors.decode().strip())
        plan = _read_json(folder / 'plan.json')
        self._folder = plan['folder']
        self._setting_hash = plan['setting_hash']
        detector = self.work_dir / self.comparison.detector_name()
        self._planned = [
            _Planned(
                run=run,
                config_hash=entry['config_hash'],
                settings=entry['settings'],
                folder=detector / run.norm.name / f'seed{run.seed}',
            )
            for run, entry in zip(self.comparison.runs(), plan['runs'], strict=True)
        ]
        for planned in self._planned:
            known = planned.specification()
            if known and known['config_hash'] != planned.config_hash:
                raise DriverError(
                    f'{self.work_dir} holds runs with other settings: delete it, or '
                    'name another with --work-dir'
                )

    def _python(
        self, arguments: list[str], environment: dict[str, str], **streams
    ) -> subprocess.Popen:
        """Start Python on the copy of the code.

        There, because ``python -m`` looks into the current directory first.
        """
        inherited = os.environ.get('PYTHONPATH', '').split(os.pathsep)
        path = [str(self._code), *(os.path.abspath(p) for p in inherited if p)]
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self._code,
            env=os.environ | environment | {'PYTHONPATH': os.pathsep.join(path)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **streams,
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a second driver out of the folder."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with open(self.work_dir / '.lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DriverError(f'another process works in {self.work_dir}') from None
            yield


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
