"""The folder of a comparison: whose it is, and with which code.

``folder/comparison.json``                    whose folder this is
``folder/preflight/``                         what was found before the first run
``folder/code/<commit>/``                     a copy of the code, so that a checkout may be
                                              edited meanwhile
``folder/<detector>/<norm>/seed<k>/``         a run: log, checkpoint, predictions
``folder/submitit/``                          what went to a cluster
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..paths import PACKAGE, configs_dir
from ..records import RecordError, claim_folder, read_json
from ..version import __version__

RECORD, LOCK = 'comparison.json', '.lock'
MARK = 'UBN_MMDET_COPY'  # the copy that a process has been started from
NOTE = '.commit'  # a copy's file that says which commit it is of


class ComparisonError(RuntimeError):
    """The comparison cannot be run as asked."""


@contextlib.contextmanager
def lock(folder: Path, patience: float = 0) -> Iterator[int]:
    """Keep a second process out of the folder of a comparison, or of one of its runs.

    Args:
        folder: It is made if it is missing.
        patience: Seconds to wait for the other one.

    Yields:
        The descriptor of the lock. A process that inherits it holds the lock as well.

    Raises:
        ComparisonError: If another process has it, or there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f'{error}: name a folder with --work-dir') from None
    end = time.monotonic() + patience
    with open(folder / LOCK, 'w') as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise ComparisonError(
                        f'another process works in {folder}, or a run that it has left '
                        'behind and that is about to end'
                    ) from None
            time.sleep(0.1)
        yield file.fileno()


def claim(folder: Path, comparison: str, revision: str | None = None) -> str:
    """Mark a folder as a comparison's, or check that it is; the commit of its code.

    That is the commit of ``revision``. By default it is the one that the folder was begun
    with, or HEAD.

    Raises:
        ComparisonError: If it is another one's, if another process works in it, or if there
            is no such code.
    """
    # A copy that was started for a revision is of that, whatever its name.
    if os.environ.get(MARK) == str(PACKAGE.parent):
        revision = 'HEAD'
    with lock(folder):
        known = read_json(folder / RECORD)
        if known is None or revision is not None:
            commit = resolve_commit(revision or 'HEAD')
        else:
            commit = known['commit']
        record = {'comparison': comparison, 'commit': commit}
        try:
            claim_folder(folder, RECORD, record, 'runs', beside=(LOCK,))
        except RecordError as error:
            raise ComparisonError(f'{error} (--work-dir)') from None
    return commit


def run_from_copy(commit: str, folder: Path, say: Callable[[str], None]) -> None:
    """Let this process go on as the same command of a clean copy of the code in ``folder``.

    It returns where the code that runs is that of the commit already. ``say`` is told if
    the checkout has changes that are no part of it.

    Raises:
        ComparisonError: If there is no such code.
    """
    root = checkout()
    if root is None:
        resolve_commit(commit)
        return
    copy = clean_copy(root, commit, folder).resolve()
    if os.environ.get(MARK) == str(copy):
        raise ComparisonError(f'{PACKAGE} is imported in place of the code in {copy}')
    if _git(root, 'status', '--porcelain'):
        say(
            f'Running commit {commit[:12]}, without uncommitted changes. Only the '
            'comparison file and the data are those that you name'
        )
    script = copy / 'tools' / Path(sys.argv[0]).name
    path = os.pathsep.join(filter(None, [str(copy), os.environ.get('PYTHONPATH')]))
    os.execve(
        sys.executable,
        [sys.executable, str(script), *sys.argv[1:]],
        os.environ | {'PYTHONPATH': path, MARK: str(copy)},
    )


def checkout() -> Path | None:
    """The git checkout that this package is run from.

    None for an installed package, and where there is no git. ComparisonError, if git
    refuses the checkout as one of another user.
    """
    root = PACKAGE.parent
    # Installed below somebody's repository, the package is no part of that.
    if not ((root / 'setup.cfg').is_file() and (root / '.git').exists()):
        return None
    if shutil.which('git') is None:
        return None
    _git(root, 'rev-parse', '--git-dir')
    return root


def resolve_commit(revision: str = 'HEAD') -> str:
    """The full name of a commit.

    A clean copy knows its own. Of an installed package it is the version with a hash of its
    files, as ``v0.1.0-1a2b3c4d``.

    Raises:
        ComparisonError: If the checkout has no such commit, or there is no checkout to look
            in.
    """
    root = checkout()
    if root is not None:
        return _git(root, 'rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}')
    note = PACKAGE.parent / NOTE
    version = note.read_text() if note.is_file() else _version()
    if revision not in ('HEAD', version):
        raise ComparisonError(
            f'the code of {revision!r} is not here, and no git checkout to take it '
            f'from: this is {version}'
        )
    return version


def clean_copy(root: Path, commit: str, folder: Path) -> Path:
    """``folder/<commit>``, with the code of a commit of the checkout ``root``."""
    target = folder / commit[:12]
    if target.is_dir():
        return target
    temporary = target.with_name(f'{target.name}.{os.getpid()}.tmp').resolve()
    temporary.mkdir(parents=True)
    archive = temporary.with_suffix('.tar')
    _git(root, 'archive', f'--output={archive}', commit)
    shutil.unpack_archive(archive, temporary, filter='data')
    archive.unlink()
    (temporary / NOTE).write_text(commit)
    try:
        os.replace(temporary, target)
    except OSError:  # another command has made it meanwhile
        if not target.is_dir():
            raise
        shutil.rmtree(temporary)
    return target


def _version() -> str:
    digest = hashlib.sha256()
    for folder in PACKAGE, configs_dir():
        for path in sorted(folder.rglob('*.py')):
            digest.update(f'{path.relative_to(folder)}\n'.encode() + path.read_bytes())
    return f'v{__version__}-{digest.hexdigest()[:8]}'


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ['git', '-C', str(root), *arguments], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip() or 'no such commit'
        raise ComparisonError(f'git {" ".join(arguments)}: {reason}')
    return done.stdout.strip()
