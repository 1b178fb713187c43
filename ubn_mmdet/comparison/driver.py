"""Runs a comparison: each run in a process of its own, from a clean copy of the code."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..paths import PACKAGE
from . import code_copy, results
from .launchers import ClusterLauncher, Launcher
from .progress import Progress
from .spec import Comparison, Run
from .workspace import ComparisonError, Planned, claim, json_if_there, lock

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
        say: Where messages go.

    Raises:
        ComparisonError: If ``work_dir`` is not this comparison's, another process works in
            it, or the data or the comparison cannot be used.
        CodeError: If this is not the code that ``work_dir`` was begun with.
        results.ResultsError: If ``results_file`` has other code's or settings' lines.
    """

    def __init__(
        self,
        comparison: Comparison,
        data: str | os.PathLike,
        work_dir: str | os.PathLike,
        results_file: str | os.PathLike,
        say: Callable[[str], None] = print,
    ) -> None:
        self.comparison = comparison
        self.results_file = Path(results_file)
        self._listener = say
        self._said = time.monotonic()
        self._folder = Path(work_dir).resolve()
        self._commit = claim(self._folder, comparison.name)
        code_copy.check_running(self._commit)
        with lock(self._folder):
            self._plan(str(data))
        results.check_same([*self.lines(), self._marks()], self.results_file)

    def _plan(self, data: str) -> None:
        """Check the settings, and name the runs."""
        from .training.plan import make_plan  # it needs the toolbox

        try:
            plan = make_plan(self.comparison, data, str(self._folder))
        except ValueError as error:
            raise ComparisonError(str(error)) from None
        for note in plan['notes']:
            self._say(note)
        self._data, self._setting_hash = plan['folder'], plan['setting_hash']
        detector = self._folder / self.comparison.detector_name()
        self._planned = [
            Planned(
                run=run,
                config_hash=entry['config_hash'],
                settings=entry['settings'],
                folder=detector / run.norm.name / f'seed{run.seed}',
            )
            for run, entry in zip(self.comparison.runs(), plan['runs'], strict=True)
        ]
        known = [json_if_there(each.specification_file) for each in self._planned]
        if any(known):
            self._say(
                f'Going on in {self._folder} with the code of {self._commit[:12]}'
            )
        for each, before in zip(self._planned, known, strict=True):
            if before and before['config_hash'] != each.config_hash:
                raise ComparisonError(
                    f'{self._folder} holds runs with other settings: delete it, or '
                    'name another with --work-dir'
                )

    def lines(self) -> list[dict]:
        """The lines of the results file."""
        return results.read(self.results_file)

    def runs(self) -> list[Run]:
        """All runs of the comparison."""
        return [planned.run for planned in self._planned]

    def run(
        self, launcher: Launcher, only: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> list[dict]:
        """Do what is not done yet; the lines of all runs that were asked for.

        A run that failed before is tried again. At an interruption (``KeyboardInterrupt``)
        the launcher decides what becomes of the runs under way; the next call goes on with
        them.

        Args:
            launcher: What starts the runs.
            only: Names of norms; all if empty.
            seeds: All if empty.
        """
        chosen = list(self.comparison.runs(only, seeds))
        planned = [p for p in self._planned if p.run in chosen]
        with lock(self._folder) as held:
            todo = [
                p
                for p, line in zip(planned, self._lines_of(planned), strict=True)
                if line is None or line['status'] == results.FAILED
            ]
            if todo:
                self._progress = Progress(len(planned), len(planned) - len(todo))
                self._work(todo, launcher, held)
        return [line for line in self._lines_of(planned) if line is not None]

    def _lines_of(self, planned: Sequence[Planned]) -> list[dict | None]:
        lines = self.lines()
        return [results.find(lines, self._commit, p.config_hash) for p in planned]

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._listener(text)

    def _tell(self, text: object) -> None:
        self._say(f'{self._progress.head()} {text}')

    def _work(self, todo: list[Planned], launcher: Launcher, held: int) -> None:
        waiting: list[Planned] = []
        jobs: dict[Planned, Any] = {}
        epochs: dict[Planned, int] = {}  # that were told
        for planned in todo:
            # There is one if it was interrupted between a run's end and its line.
            if outcome := json_if_there(planned.result_file):
                self._finish(planned, outcome, launcher)
            elif submitted := json_if_there(planned.submission_file):
                jobs[planned] = _find(launcher, planned, submitted)
                self._tell(f'{planned.run}: submitted before')
            else:
                waiting.append(planned)
        try:
            while waiting or jobs:
                # More than the limit may have been found from an earlier call.
                limit = launcher.limit
                room = len(waiting) if limit is None else max(0, limit - len(jobs))
                if chosen := waiting[:room]:
                    for planned in chosen:
                        self._specify(planned, launcher)
                    jobs |= zip(chosen, launcher.start(chosen, held), strict=True)
                    waiting = waiting[room:]
                    for planned in chosen:
                        self._tell(f'{planned.run}: started')
                time.sleep(POLL_SECONDS)
                for planned, job in list(jobs.items()):
                    self._watch(planned, epochs)
                    if how := launcher.how_it_ended(job):
                        del jobs[planned]
                        outcome = json_if_there(planned.result_file)
                        self._finish(
                            planned, outcome or _failure(planned, how), launcher
                        )
                if jobs and time.monotonic() - self._said > QUIET_SECONDS:
                    self._tell(self._progress.under_way() or 'starting')
        finally:
            launcher.leave(list(jobs.values()))

    def _specify(self, planned: Planned, launcher: Launcher) -> None:
        """Write down what a run's process is to do."""
        before = json_if_there(planned.specification_file) or {}
        spec = {
            'comparison': self.comparison.to_dict(),
            'norm': vars(planned.run.norm),
            'seed': planned.run.seed,
            'commit': self._commit,
            'config_hash': planned.config_hash,
            'folder': self._data,
            'run_dir': str(planned.folder),
            'code': str(PACKAGE.parent),
            'directory': os.getcwd(),
            'threads': launcher.threads,
            'started': before.get('started') or _now(),
        }
        write_whole(planned.specification_file, json.dumps(spec, indent=1).encode())
        (planned.folder / 'progress.json').unlink(missing_ok=True)

    def _watch(self, planned: Planned, epochs: dict[Planned, int]) -> None:
        state = json_if_there(planned.folder / 'progress.json')
        if not state:
            return
        # The end of a run is told when it is over.
        part = state['step'] / max(1, state['steps'])
        self._progress.note(str(planned.run), min(part, 0.999))
        epoch, last = state['epoch'], state['epochs']
        if epochs.get(planned, 0) < epoch < last and state['metrics']:
            epochs[planned] = epoch
            metrics = _metrics(state['metrics'])
            self._tell(f'{planned.run}: epoch {epoch}/{last}, {metrics}')

    def _finish(self, planned: Planned, outcome: dict, launcher: Launcher) -> None:
        for key in 'predictions', 'checkpoint', 'condensation':
            if key in outcome:
                path = planned.folder / outcome[key]
                outcome[key] = str(path.relative_to(self._folder))
        specification = json_if_there(planned.specification_file) or {}
        line = {
            **planned.settings,
            **self._marks(),
            'config_hash': planned.config_hash,
            **outcome,
            'started': specification.get('started'),
            'finished': _now(),
            'jobs': launcher.jobs,
        }
        results.append(self.results_file, line)
        planned.submission_file.unlink(missing_ok=True)
        self._progress.note(str(planned.run), 1)
        said = line['error'] or _metrics(line)
        self._tell(f'{planned.run}: {line["status"]}, {said}')

    def _marks(self) -> dict:
        return {
            'comparison': self.comparison.name,
            'commit': self._commit,
            'setting_hash': self._setting_hash,
            'primary': [asdict(contrast) for contrast in self.comparison.primary],
        }


def _find(launcher: Launcher, planned: Planned, submitted: dict) -> Any:
    if submitted['cluster'] != launcher.cluster:
        raise ComparisonError(
            f'{planned.run} was submitted with --cluster {submitted["cluster"]}: '
            f'collect it with that, or delete {planned.submission_file}'
        )
    assert isinstance(launcher, ClusterLauncher)
    return launcher.find(submitted['job'])


def _failure(planned: Planned, how_it_ended: str) -> dict:
    log = planned.folder / 'log.txt'
    text = log.read_text(errors='replace') if log.exists() else '(it has no log)'
    tail = '\n'.join(text.splitlines()[-LOG_LINES:])
    return {'status': results.FAILED, 'error': f'{how_it_ended}\n{tail}'}


def _metrics(record: dict) -> str:
    """The main ones that there are."""
    return ', '.join(
        f'{kind} {record[kind]:.3f}' for kind in results.MAIN_METRICS if kind in record
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
