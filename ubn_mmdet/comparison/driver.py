"""Runs a comparison: each run in a process of its own, from a clean copy of the code."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from ..files import write_whole
from . import results
from .launchers import Job, Launcher, log_tail
from .processes import termination_as_interrupt
from .progress import Progress
from .spec import Comparison, Run
from .workspace import Planned, Workspace, json_if_there

POLL_SECONDS = 0.5
QUIET_SECONDS = 60  # after which the progress is told although nothing has happened
LOG_LINES = 15


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
        self, launcher: Launcher, only: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> list[dict]:
        """Do what is not done yet; the lines of all runs that were asked for.

        A run that failed before is tried again. At an interruption (``KeyboardInterrupt``,
        or SIGTERM) the launcher decides what becomes of the runs under way; the next call
        goes on with them.

        Args:
            launcher: What starts the runs.
            only: Names of norms; all if empty.
            seeds: All if empty.
        """
        chosen = list(self.comparison.runs(only, seeds))
        planned = [p for p in self._place.planned if p.run in chosen]
        with self._place.lock() as lock, termination_as_interrupt():
            lines = self.lines()
            todo = [
                p
                for p in planned
                if (line := self._line(lines, p)) is None
                or line['status'] == results.FAILED
            ]
            if todo:
                self._work(todo, len(planned), launcher, lock)
        lines = self.lines()
        return [line for p in planned if (line := self._line(lines, p)) is not None]

    def _line(self, lines: list[dict], planned: Planned) -> dict | None:
        return results.find(lines, self._place.commit, planned.config_hash)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._listener(text)

    def _work(
        self, todo: list[Planned], total: int, launcher: Launcher, lock: int
    ) -> None:
        progress = Progress(total, total - len(todo))
        waiting: list[Planned] = []
        jobs: list[Job] = []
        told: dict[Planned, int] = {}  # epochs
        for planned in todo:
            # There is one if it was interrupted between a run's end and its line.
            if outcome := planned.result():
                self._finish(planned, outcome, launcher, progress)
            elif job := launcher.find(planned):
                self._say(f'{progress.head()} {planned.run}: submitted before')
                jobs.append(job)
            else:
                waiting.append(planned)
        try:
            while waiting or jobs:
                room = launcher.room(len(jobs), len(waiting))
                if chosen := waiting[:room]:
                    for planned in chosen:
                        self._specify(planned, launcher)
                    jobs += launcher.start(chosen, lock)
                    waiting = waiting[room:]
                    for planned in chosen:
                        self._say(f'{progress.head()} {planned.run}: started')
                time.sleep(POLL_SECONDS)
                for job in list(jobs):
                    self._watch(job.planned, told, progress)
                    if job.ended():
                        jobs.remove(job)
                        ended = job.planned.result() or _failure(job)
                        self._finish(job.planned, ended, launcher, progress)
                if jobs and time.monotonic() - self._said > QUIET_SECONDS:
                    state = progress.under_way() or 'starting'
                    self._say(f'{progress.head()} {state}')
        finally:
            launcher.leave(jobs)

    def _specify(self, planned: Planned, launcher: Launcher) -> None:
        """Write down what a run's process is to do."""
        before = planned.specification() or {}
        spec = {
            'comparison': self.comparison.to_dict(),
            'norm': vars(planned.run.norm),
            'seed': planned.run.seed,
            'commit': self._place.commit,
            'config_hash': planned.config_hash,
            'folder': self._place.data,
            'run_dir': str(planned.folder),
            'code': str(self._place.code),
            'directory': os.getcwd(),
            'threads': launcher.threads(),
            'started': before.get('started') or _now(),
        }
        text = json.dumps(spec, indent=1)
        write_whole(planned.specification_file, text.encode())
        (planned.folder / 'progress.json').unlink(missing_ok=True)

    def _watch(
        self, planned: Planned, told: dict[Planned, int], progress: Progress
    ) -> None:
        state = json_if_there(planned.folder / 'progress.json')
        if not state:
            return
        progress.note(str(planned.run), state['step'] / max(1, state['steps']))
        # Once an epoch; after the last one the end of the run is told.
        if told.get(planned, 0) < state['epoch'] < state['epochs'] and state['metrics']:
            told[planned] = state['epoch']
            self._say(
                f'{progress.head()} {planned.run}: epoch {state["epoch"]}/'
                f'{state["epochs"]}, {_metrics(state["metrics"])}'
            )

    def _finish(
        self,
        planned: Planned,
        outcome: dict,
        launcher: Launcher,
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
            'jobs': launcher.jobs,
        }
        results.append(self.results_file, line)
        launcher.forget(planned)
        progress.finish(str(planned.run))
        said = line['error'] or _metrics(line)
        self._say(f'{progress.head()} {planned.run}: {line["status"]}, {said}')

    def _marks(self) -> dict:
        return {
            'comparison': self.comparison.name,
            'commit': self._place.commit,
            'setting_hash': self._place.setting_hash,
            'primary': [asdict(contrast) for contrast in self.comparison.primary],
        }


def _failure(job: Job) -> dict:
    tail = log_tail(job.planned.folder, LOG_LINES)
    return {'status': results.FAILED, 'error': f'{job.how_it_ended()}\n{tail}'}


def _metrics(record: dict) -> str:
    """The main ones that there are."""
    return ', '.join(
        f'{kind} {record[kind]:.3f}' for kind in results.MAIN_METRICS if kind in record
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
