"""A clean copy of the code of a commit, so that a checkout may be edited meanwhile.

A command that trains goes on as the same command of such a copy.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from ..paths import PACKAGE, configs_dir
from ..version import __version__

MARK = 'UBN_MMDET_COPY'  # the copy that a process has been started from
NOTE = '.commit'  # a copy's file that says which commit it is of


class CodeError(ValueError):
    """There is no such code."""


def checkout() -> Path | None:
    """The git checkout that this package is run from.

    None for an installed package, and where there is no git.

    Raises:
        CodeError: If git refuses the checkout, as one of another user.
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
        CodeError: If the checkout has no such commit, or there is no checkout to look in.
    """
    root = checkout()
    if root is None:
        note = PACKAGE.parent / NOTE
        version = note.read_text() if note.is_file() else _version()
        # A copy that was started for a revision is of that, whatever its name.
        is_started = os.environ.get(MARK) == str(PACKAGE.parent)
        if revision not in ('HEAD', version) and not is_started:
            raise CodeError(
                f'the code of {revision!r} is not here, and no git checkout to take it '
                f'from: this is {version}'
            )
        return version
    return _git(root, 'rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}')


def _version() -> str:
    digest = hashlib.sha256()
    for folder in PACKAGE, configs_dir():
        for path in sorted(folder.rglob('*.py')):
            digest.update(f'{path.relative_to(folder)}\n'.encode() + path.read_bytes())
    return f'v{__version__}-{digest.hexdigest()[:8]}'


def has_uncommitted_changes() -> bool:
    """Whether the checkout differs from its commit."""
    root = checkout()
    return root is not None and bool(_git(root, 'status', '--porcelain'))


def check_running(commit: str) -> None:
    """Refuse code that is not a commit's.

    Raises:
        CodeError: If this is a checkout, or the code of another commit.
    """
    if checkout() is not None:
        raise CodeError(
            f'this is a checkout, which may change: run a copy of {commit[:12]}'
        )
    if (running := resolve_commit()) != commit:
        raise CodeError(f'the code of {commit} is not here: this is {running}')


def clean_copy(commit: str, folder: str | os.PathLike) -> Path:
    """Where the code of ``commit`` can be run from: ``folder/<commit>``, made if need be.

    Without a checkout it is where the code is already.

    Raises:
        CodeError: If there is no such code.
    """
    root = checkout()
    if root is None:
        resolve_commit(commit)
        return PACKAGE.parent
    target = Path(folder) / commit[:12]
    if target.is_dir():
        return target
    try:
        archive = subprocess.run(
            ['git', '-C', str(root), 'archive', commit], check=True, capture_output=True
        ).stdout
    except subprocess.CalledProcessError as error:
        raise CodeError(error.stderr.decode().strip()) from None
    temporary = target.with_name(f'{target.name}.{os.getpid()}.tmp')
    temporary.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(temporary, filter='data')
    (temporary / NOTE).write_text(commit)
    try:
        os.replace(temporary, target)
    except OSError:  # another command has made it meanwhile
        if not target.is_dir():
            raise
        shutil.rmtree(temporary)
    return target


def run_from_copy(
    commit: str, folder: str | os.PathLike, say: Callable[[str], None]
) -> None:
    """Let this process go on as the same command of a clean copy.

    It returns where the code that runs is that of the commit already.

    Args:
        commit: Of the code that is to run.
        folder: Where copies are.
        say: Is told if the checkout has changes that are no part of it.

    Raises:
        CodeError: If there is no such code.
    """
    copy = clean_copy(commit, folder).resolve()
    if copy == PACKAGE.parent:
        return
    if os.environ.get(MARK) == str(copy):
        raise CodeError(f'{PACKAGE} is imported in place of the code in {copy}')
    if has_uncommitted_changes():
        say(f'Uncommitted changes are no part of this: it runs {commit[:12]}')
    script = copy / 'tools' / Path(sys.argv[0]).name
    path = os.pathsep.join(filter(None, [str(copy), os.environ.get('PYTHONPATH')]))
    os.execve(
        sys.executable,
        [sys.executable, str(script), *sys.argv[1:]],
        os.environ | {'PYTHONPATH': path, MARK: str(copy)},
    )


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ['git', '-C', str(root), *arguments], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip() or 'no such commit'
        raise CodeError(f'git {" ".join(arguments)}: {reason}')
    return done.stdout.strip()
