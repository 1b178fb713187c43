"""A clean copy of the code of a commit, so that a checkout may be edited meanwhile."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ..paths import PACKAGE
from ..version import __version__


class CodeError(ValueError):
    """There is no such code."""


def checkout() -> Path | None:
    """The git checkout that this package is run from; None for an installed package."""
    root = PACKAGE.parent
    # Installed below somebody's repository, the package is no part of that.
    if not (root / 'setup.cfg').is_file() or shutil.which('git') is None:
        return None
    try:
        top = _git(root, 'rev-parse', '--show-toplevel')
    except CodeError:
        return None
    return root if Path(top).resolve() == root.resolve() else None


def resolve_commit(revision: str = 'HEAD') -> str:
    """The full name of a commit; ``v<version>`` where there is no checkout.

    Raises:
        CodeError: If the checkout has no such commit, or there is no checkout to look in.
    """
    root = checkout()
    version = f'v{__version__}'
    if root is None:
        if revision not in ('HEAD', version):
            raise CodeError(f'there is no git checkout to take {revision!r} from')
        return version
    return _git(root, 'rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}')


def describe_code() -> str:
    """The commit in short, with ``+`` if the checkout differs from it; or the version."""
    return resolve_commit()[:12] + '+' * has_uncommitted_changes()


def has_uncommitted_changes() -> bool:
    """Whether the checkout differs from its commit."""
    root = checkout()
    return root is not None and bool(_git(root, 'status', '--porcelain'))


def clean_copy(commit: str, folder: str | os.PathLike) -> Path:
    """Where the code of ``commit`` can be run from: ``folder/<commit>``, made if need be.

    Without a checkout it is where the code is already.
    """
    root = checkout()
    if root is None:
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
