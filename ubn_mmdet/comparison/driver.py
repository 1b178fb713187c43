"""Runs a comparison: each run in a process of its own, from a clean copy of the code."""

import json
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..paths import PACKAGE
from ..records import read_json
from . import results
from .launchers import (
    CONFIG,
    RESULT,
    SPECIFICATION,
    SUBMISSION,
    ClusterLauncher,
    Launcher,
)
from .spec import Comparison, Run
from .workspace import ComparisonError, lock

POLL_SECONDS = 0.5
QUIET_SECONDS = 60  # after which the progress is told although nothing has happened
LOG_LINES = 15
TORCHRUN = 'failed (exitcode: '


@dataclass(eq=False)
class Planned:
    """A run, its config, what it is recognised by, where it is, and how far.

    Attributes:
        epoch: The last one whose metrics have been printed.
        done: The part of the training that is over, from 0 to 1.
        logged: Bytes of the toolbox's log that this was read from.
    """

    run: Run
    config: Any
    config_hash: str
    settings: dict
    folder: Path
    epoch: int = 0
    done: float = 0.0
    logged: int = 0


class Driver:
    """One comparison in one folder.

    Args:
        comparison: What to run.
        data: The COCO-format folder.
        work_dir: Where runs go; it has been claimed (:func:`~.workspace.claim`).
        results_file: Where lines go.
        commit: Of the code that runs.
        say: Where messages go.
        runs: Those of the comparison that are to run; all by default.

    Raises:
        ComparisonError: If another process works in ``work_dir``, or the data or the
            comparison cannot be used.
        results.ResultsError: If ``results_file`` has other code's or settings' lines.
    """

    def __init__(
        self,
        comparison: Comparison,
        data: str | os.PathLike,
        work_dir: str | os.PathLike,
        results_file: str | os.PathLike,
        commit: str,
        say: Callable[[str], None] = print,
        runs: Sequence[Run] = (),
    ) -> None:
        self.comparison = comparison
        runs = runs or comparison.all_runs
        self.results_file = Path(results_file)
        self._listener = say
        self._said = time.monotonic()
        self._folder = Path(work_dir).resolve()
        self._commit = commit
        from .training.plan import make_plan  # it needs the toolbox

        try:
            with lock(self._folder):
                plan = make_plan(comparison, runs, str(data), str(self._folder))
        except ValueError as error:
            raise ComparisonError(str(error)) from None
        for note in plan['notes']:
            self._say(note)
        self._root, self._setting_hash = plan['root'], plan['setting_hash']
        detector = self._folder / comparison.detector_name()
        self._planned = [
            Planned(run, folder=detector / run.norm.name / f'seed{run.seed}', **entry)
            for run, entry in zip(runs, plan['runs'], strict=True)
        ]
        known = [read_json(each.folder / SPECIFICATION) for each in self._planned]
        if any(known):
            self._say(
                f'Going on in {self._folder} with the code of {self._commit[:12]}'
            )
        # Numbers depend on it, in the last digits: all runs of the folder have the same.
        specifications = map(read_json, sorted(detector.glob(f'*/*/{SPECIFICATION}')))
        self._threads = next((s['threads'] for s in specifications if s), None)
        for each, before in zip(self._planned, known, strict=True):
            if before and before['config_hash'] != each.config_hash:
                raise ComparisonError(
                    f'{each.folder} is of a run with other settings: delete it, or name '
                    'another work folder with --work-dir'
                )
        new = map(self._known_before, self._planned)
        results.check_same([*self.lines(), *new], self.results_file)

    def lines(self) -> list[dict]:
        """The lines of the results file."""
        return results.read(self.results_file)

    def run(self, launcher: Launcher) -> list[dict]:
        """Do what is not done yet; the lines of all runs.

        A run that failed before is tried again. At an interruption (``KeyboardInterrupt``)
        the launcher decides what becomes of the runs under way; the next call goes on with
        them.
        """
        with lock(self._folder) as held:
            todo = [
                p
                for p, line in zip(self._planned, self._own_lines(), strict=True)
                if line is None or line['status'] == results.FAILED
            ]
            for each in todo:
                self._look(each)
            self._todo, self._began = todo, time.monotonic()
            # What runs had done before this process began is no work of its time.
            self._before = sum(each.done for each in todo)
            self._work(launcher, held)
        lines = [line for line in self._own_lines() if line is not None]
        if note := results.made_elsewhere(lines):
            self._say(note)
        return lines

    def _own_lines(self) -> list[dict | None]:
        """Of each planned run its line, if there is one."""
        known = {results.run_of(line): line for line in self.lines()}
        planned = map(self._known_before, self._planned)
        return [known.get(results.run_of(line)) for line in planned]

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._listener(text)

    def _tell(self, text: str) -> None:
        """Say it behind ``[3/27 runs, 1:20:00 left]``, at the speed so far."""
        done = sum(each.done for each in self._todo)
        left = 'time left unknown'
        if worked := done - self._before:
            speed = worked / (time.monotonic() - self._began)
            seconds = (len(self._todo) - done) / speed
            left = f'{timedelta(seconds=round(seconds))} left'
        total = len(self._planned)
        over = total - sum(each.done < 1 for each in self._todo)
        self._say(f'[{over}/{total} runs, {left}] {text}')

    def _work(self, launcher: Launcher, held: int) -> None:
        waiting: list[Planned] = []
        jobs: dict[Planned, Any] = {}
        for planned in self._todo:
            # There is one if it was interrupted between a run's end and its line.
            if outcome := read_json(planned.folder / RESULT):
                self._finish(planned, outcome, launcher)
            elif submitted := read_json(planned.folder / SUBMISSION):
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
                    folders = [planned.folder for planned in chosen]
                    jobs |= zip(chosen, launcher.start(folders, held), strict=True)
                    waiting = waiting[room:]
                    for planned in chosen:
                        self._tell(f'{planned.run}: started')
                time.sleep(POLL_SECONDS)
                for planned, job in list(jobs.items()):
                    self._watch(planned)
                    if how := launcher.how_it_ended(job):
                        del jobs[planned]
                        outcome = read_json(planned.folder / RESULT)
                        self._finish(
                            planned, outcome or _failure(planned, how), launcher
                        )
                if jobs and time.monotonic() - self._said > QUIET_SECONDS:
                    self._tell(', '.join(f'{p.run} {p.done:.0%}' for p in jobs))
        finally:
            launcher.leave(list(jobs.values()))

    def _specify(self, planned: Planned, launcher: Launcher) -> None:
        """Write down what a run's process is to do."""
        path = planned.folder / SPECIFICATION
        before = read_json(path) or {}
        spec = {
            'commit': self._commit,
            'config_hash': planned.config_hash,
            'processes': self.comparison.processes,
            'folder': {'root': str(self._root)},
            'code': str(PACKAGE.parent),
            'directory': os.getcwd(),
            'threads': self._threads or launcher.threads,
            'started': before.get('started') or _now(),
        }
        write_whole(planned.folder / CONFIG, pickle.dumps(planned.config))
        write_whole(path, json.dumps(spec, indent=1).encode())

    def _watch(self, planned: Planned) -> None:
        """Tell the metrics of an epoch; those of the last one are told as the result."""
        # The log of a long run takes a while to read: only when it has grown.
        logs = results.scalars_files(planned.folder)
        logged = sum(path.stat().st_size for path in logs)
        if logged == planned.logged:
            return
        planned.logged = logged
        before, last = planned.epoch, self.comparison.epochs
        metrics = self._look(planned)
        if before < planned.epoch < last:
            self._tell(f'{planned.run}: epoch {planned.epoch}/{last}, {metrics}')

    def _look(self, planned: Planned) -> str:
        """See how far a run is; the metrics of its last evaluation."""
        training, evaluations = results.read_scalars(planned.folder)
        planned.epoch = max(evaluations, default=0)
        images_a_step = self.comparison.batch_size * self.comparison.processes
        steps = planned.settings['train_images'] / images_a_step
        epochs = max(planned.epoch, max(training, default=0) / steps)
        # A run is done when it has its line.
        planned.done = min(epochs / self.comparison.epochs, 0.99)
        return _metrics(evaluations.get(planned.epoch, {}))

    def _finish(self, planned: Planned, outcome: dict, launcher: Launcher) -> None:
        for key in 'predictions', 'checkpoint', 'condensation':
            if key in outcome:
                path = planned.folder / outcome[key]
                outcome[key] = str(path.relative_to(self._folder))
        specification = read_json(planned.folder / SPECIFICATION) or {}
        line = {
            **self._known_before(planned),
            **outcome,
            'started': specification.get('started'),
            'finished': _now(),
            'jobs': launcher.jobs,
        }
        results.append(self.results_file, line)
        (planned.folder / SUBMISSION).unlink(missing_ok=True)
        planned.done = 1.0
        said = line['error'] or _metrics(line)
        self._tell(f'{planned.run}: {line["status"]}, {said}')

    def _known_before(self, planned: Planned) -> dict:
        """What a run's line says that is known before it is trained."""
        return {
            **planned.settings,
            'comparison': self.comparison.name,
            'commit': self._commit,
            'setting_hash': self._setting_hash,
            'primary': [asdict(contrast) for contrast in self.comparison.primary],
            'planned': self.comparison.planned(),
            'config_hash': planned.config_hash,
        }


def _find(launcher: Launcher, planned: Planned, submitted: dict) -> Any:
    if submitted['cluster'] != launcher.cluster:
        raise ComparisonError(
            f'{planned.run} was submitted with --cluster {submitted["cluster"]}: '
            f'collect it with that, or delete {planned.folder / SUBMISSION}'
        )
    assert isinstance(launcher, ClusterLauncher)
    return launcher.find(submitted['job'])


def _failure(planned: Planned, how_it_ended: str) -> dict:
    log = planned.folder / 'log.txt'
    text = log.read_text(errors='replace') if log.exists() else '(it has no log)'
    lines = text.splitlines()
    # What torchrun says of several processes comes after what the run itself says.
    if ends := [i for i, line in enumerate(lines) if TORCHRUN in line]:
        lines = lines[: ends[-1]]
    tail = '\n'.join(lines[-LOG_LINES:])
    return {'status': results.FAILED, 'error': f'{how_it_ended}\n{tail}'}


def _metrics(record: Mapping[str, Any]) -> str:
    """The main ones that there are, by the toolbox's names or by ours."""
    named = {results.metric_name(key): value for key, value in record.items()}
    return ', '.join(
        f'{kind} {named[kind]:.3f}' for kind in results.MAIN_METRICS if kind in named
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
