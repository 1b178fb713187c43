"""A clean copy of the code of a commit, so that a checkout may be edited meanwhile."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ..paths import PACKAGE, configs_dir
from ..version import __version__


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

    Where there is no checkout, it is the version with a hash of the package's files, as
    ``v0.1.0-1a2b3c4d``.

    Raises:
        CodeError: If the checkout has no such commit, or there is no checkout to look in.
    """
    root = checkout()
    if root is None:
        version = f'v{__version__}-{_hash_of_files()}'
        if revision not in ('HEAD', version):
            raise CodeError(
                f'the code of {revision!r} is not here, and no git checkout to take it '
                f'from: this is {version}'
            )
        return version
    return _git(root, 'rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}')


def _hash_of_files() -> str:
    digest = hashlib.sha256()
    for folder in PACKAGE, configs_dir():
        for path in sorted(folder.rglob('*.py')):
            digest.update(f'{path.relative_to(folder)}\n'.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def describe_code() -> str:
    """The commit in short, with ``+`` if the checkout differs from it; or the version."""
    commit = resolve_commit()
    if checkout() is None:
        return commit
    return commit[:12] + '+' * has_uncommitted_changes()


def has_uncommitted_changes() -> bool:
    """Whether the checkout differs from its commit."""
    root = checkout()
    return root is not None and bool(_git(root, 'status', '--porcelain'))


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
    os.replace(temporary, target)
    return target


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ['git', '-C', str(root), *arguments], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip() or 'no such commit'
        raise CodeError(f'git {" ".join(arguments)}: {reason}')
    return done.stdout.strip()
