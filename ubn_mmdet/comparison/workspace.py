"""The folder of a comparison: whose it is, with which code, and what is where in it.

``folder/comparison.json``                    whose folder this is
``folder/preflight/``                         what was found before the first run
``folder/code/<commit>/``                     the code
``folder/<detector>/<norm>/seed<k>/``         a run: log, checkpoint, predictions
``folder/submitit/``                          what went to a cluster
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..records import RecordError, claim_folder
from . import code_copy
from .spec import Run

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
        ComparisonError: If another process has it, or there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f'{error}: name a folder with --work-dir') from None
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


def json_if_there(path: Path) -> dict | None:
    """The content of a file; None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
