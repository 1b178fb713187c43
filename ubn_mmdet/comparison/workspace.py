"""The folder of a comparison: whose it is, with which code, and what is planned in it.

``folder/comparison.json``                    whose folder this is
``folder/code/<commit>/``                     the code
``folder/<detector>/<norm>/seed<k>/``         a run: log, checkpoint, predictions
``folder/submitit/``                          what went to a cluster
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..records import RecordError, claim_folder
from . import code_copy
from .spec import Comparison, Run

RECORD, LOCK = 'comparison.json', '.lock'


class ComparisonError(RuntimeError):
    """The comparison cannot be run as asked."""


@dataclass(eq=False)
class Planned:
    """A run, what it is recognised by, and where it is.

    Attributes:
        specification_file: What its process is started with.
        submission_file: Which job of a cluster it was given to, until that is collected:
            ``{'cluster': ..., 'job': ...}``.
        result_file: What its process leaves at its end.
    """

    run: Run
    config_hash: str
    settings: dict
    folder: Path

    def __post_init__(self) -> None:
        self.specification_file = self.folder / 'run.json'
        self.submission_file = self.folder / 'job.json'
        self.result_file = self.folder / 'result.json'


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Keep a second driver out of a comparison's folder.

    Yields:
        The descriptor of the lock. A process that inherits it holds the lock as well.

    Raises:
        ComparisonError: If another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ComparisonError(
                f'another process works in {folder}, or a run that it has left '
                'behind and that is about to end'
            ) from None
        yield file.fileno()


def claim(folder: Path, comparison: str, revision: str | None = None) -> str:
    """Mark a folder as a comparison's, or check that it is.

    Args:
        folder: Where runs go.
        comparison: Its name.
        revision: Of the code; None for that which ``folder`` was begun with, or HEAD.

    Returns:
        The commit of its code, which stays the same over its life.

    Raises:
        ComparisonError: If it is another one's, or another process works in it.
        CodeError: If there is no such code.
    """
    with lock(folder):
        known = json_if_there(folder / RECORD)
        if known is None or revision is not None:
            commit = code_copy.resolve_commit(revision or 'HEAD')
        else:
            commit = known['commit']
        record = {'comparison': comparison, 'commit': commit}
        try:
            claim_folder(folder, RECORD, record, 'runs', beside=(LOCK,))
        except RecordError as error:
            raise ComparisonError(f'{error} (--work-dir)') from None
    return commit


@dataclass(frozen=True)
class Workspace:
    """What is to be run in a comparison's folder.

    Attributes:
        folder: Where runs go.
        commit: Of the code.
        data: The annotations and images that the runs read.
        setting_hash: Of what all runs have in common.
        planned: All runs.
    """

    folder: Path
    commit: str
    data: dict
    setting_hash: str
    planned: list[Planned]

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike,
        comparison: Comparison,
        data: str | os.PathLike,
        say: Callable[[str], None],
    ) -> 'Workspace':
        """Check the settings, and name the runs.

        Args:
            folder: Where runs go.
            comparison: What to run.
            data: The COCO-format folder.
            say: Where messages go.

        Raises:
            ComparisonError: If ``folder`` is not this comparison's, another process works
                in it, or the data or the comparison cannot be used.
            CodeError: If this is not the code that the folder was begun with.
        """
        folder = Path(folder).resolve()
        commit = claim(folder, comparison.name)
        code_copy.check_running(commit)
        from .training.plan import make_plan  # it needs the toolbox

        try:
            plan = make_plan(comparison, str(data), str(folder))
        except ValueError as error:
            raise ComparisonError(str(error)) from None
        detector = folder / comparison.detector_name()
        planned = [
            Planned(
                run=run,
                config_hash=entry['config_hash'],
                settings=entry['settings'],
                folder=detector / run.norm.name / f'seed{run.seed}',
            )
            for run, entry in zip(comparison.runs(), plan['runs'], strict=True)
        ]
        known = [json_if_there(each.specification_file) for each in planned]
        if any(known):
            say(f'Going on in {folder} with the code of {commit[:12]}')
        for each, before in zip(planned, known, strict=True):
            if before and before['config_hash'] != each.config_hash:
                raise ComparisonError(
                    f'{folder} holds runs with other settings: delete it, or '
                    'name another with --work-dir'
                )
        return cls(folder, commit, plan['folder'], plan['setting_hash'], planned)


def json_if_there(path: Path) -> dict | None:
    """The content of a file; None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
