"""The folder of a comparison: whose it is, with which code, and what is planned in it.

``folder/comparison.json``                    whose folder this is
``folder/plan/``                              the runs as they were planned
``folder/preflight/``                         what was found before the first of them
``folder/code/<commit>/``                     the code
``folder/<detector>/<norm>/seed<k>/``         a run: log, checkpoint, predictions
``folder/submitit/``                          what went to a cluster
"""

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole
from ..records import RecordError, claim_folder
from . import code_copy
from .processes import start_python
from .spec import Comparison, Run

RECORD, LOCK = 'comparison.json', '.lock'
DESCRIBE = 'ubn_mmdet.comparison.training.describe'


class ComparisonError(RuntimeError):
    """The comparison cannot be run as asked."""


@dataclass(eq=False)
class Planned:
    """A run, what it is recognised by, and where it is."""

    run: Run
    config_hash: str
    settings: dict
    folder: Path

    @property
    def specification_file(self) -> Path:
        """What its process is started with."""
        return self.folder / 'run.json'

    @property
    def submission_file(self) -> Path:
        """Which job of a cluster it was given to, until that is collected."""
        return self.folder / 'job.json'

    def specification(self) -> dict | None:
        """What its process was started with."""
        return json_if_there(self.specification_file)

    def submission(self) -> dict | None:
        """``{'cluster': ..., 'job': ...}``; None if there is none to be collected."""
        return json_if_there(self.submission_file)

    def result(self) -> dict | None:
        """What its process left at its end."""
        return json_if_there(self.folder / 'result.json')


class Workspace:
    """A comparison's folder.

    Args:
        folder: Where runs go.
        comparison: What to run.
        data: The COCO-format folder.
        revision: Of the code; None for that which ``folder`` was begun with, or HEAD.
        say: Where messages go.

    Attributes:
        commit: Of the code.
        code: Where its copy is.
        data: The annotations and images that the runs read, as the plan names them.
        setting_hash: Of what all runs have in common.
        planned: All runs.

    Raises:
        ComparisonError: If ``folder`` is not this comparison's, another process works in
            it, or the data or the comparison cannot be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        comparison: Comparison,
        data: str | os.PathLike,
        revision: str | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder = Path(folder).resolve()
        self._say = say
        with self.lock():
            self.commit = self._claim(comparison, revision)
            self.code = code_copy.clean_copy(self.commit, self.folder / 'code')
            self._plan(comparison, Path(data).resolve())

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Keep a second driver out of the folder.

        Yields:
            The descriptor of the lock. A process that inherits it holds the lock as well.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ComparisonError(
                    f'another process works in {self.folder}, or a run that it has left '
                    'behind and that is about to end'
                ) from None
            yield lock.fileno()

    def _claim(self, comparison: Comparison, revision: str | None) -> str:
        """The commit of this folder, which stays the same over its life."""
        known = json_if_there(self.folder / RECORD)
        if known is None or revision is not None:
            commit = code_copy.resolve_commit(revision or 'HEAD')
        else:
            commit = known['commit']
        record = {'comparison': comparison.name, 'commit': commit}
        try:
            claim_folder(self.folder, RECORD, record, 'runs', beside=(LOCK,))
        except RecordError as error:
            raise ComparisonError(f'{error} (--work-dir)') from None
        if known is not None:
            self._say(f'Going on in {self.folder} with the code of {commit[:12]}')
        self._note_changes(commit)
        return commit

    def _note_changes(self, commit: str) -> None:
        if code_copy.has_uncommitted_changes():
            self._say(f'Uncommitted changes are no part of this: it runs {commit[:12]}')

    def _plan(self, comparison: Comparison, data: Path) -> None:
        """Let the code of the commit check the settings and name the runs."""
        place = self.folder / 'plan'
        spec = {
            'comparison': comparison.to_dict(),
            'data': str(data),
            'work_dir': str(self.folder),
            'code': str(self.code),
            'directory': os.getcwd(),
        }
        path = place / 'comparison.json'
        write_whole(path, json.dumps(spec).encode())
        process = start_python(
            self.code,
            # What it says is what is wrong: no warnings of the toolbox.
            ['-W', 'ignore', '-m', DESCRIBE, str(path)],
            {},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _, errors = process.communicate()
        if process.returncode:
            raise ComparisonError(errors.decode().strip())
        plan = json.loads((place / 'plan.json').read_text())
        checked = plan.get('preflight', {})  # the code of other commits may have none
        for found in checked.values():
            self._say(found['summary'])
        self.data = plan['folder']
        self.setting_hash = plan['setting_hash']
        detector = self.folder / comparison.detector_name()
        self.planned = [
            Planned(
                run=run,
                config_hash=entry['config_hash'],
                settings=entry['settings']
                | {'preflight': checked.get(run.norm.name, {}).get('id')},
                folder=detector / run.norm.name / f'seed{run.seed}',
            )
            for run, entry in zip(comparison.runs(), plan['runs'], strict=True)
        ]
        for planned in self.planned:
            known = planned.specification()
            if known and known['config_hash'] != planned.config_hash:
                raise ComparisonError(
                    f'{self.folder} holds runs with other settings: delete it, or '
                    'name another with --work-dir'
                )


def json_if_there(path: Path) -> dict | None:
    """The content of a file; None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
