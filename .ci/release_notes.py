"""Prints the changelog's section for a release, or says why the tag is not one.

python .ci/release_notes.py v0.2.0
"""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_notes(tag: str, version: str, changelog: str) -> str:
    """The text below the heading of ``version``.

    Args:
        tag: ``v`` and the version.
        version: That of the package.
        changelog: In the format of Keep a Changelog.

    Raises:
        ValueError: If the tag is for another version, or the changelog has no section or
            an empty one for it.
    """
    if tag != f'v{version}':
        raise ValueError(f'tag {tag!r}, but the version of the package is {version!r}')
    heading = rf'^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$'
    section = re.search(rf'{heading}\n(.*?)(?=^## |\Z)', changelog, re.M | re.S)
    if section is None or not section[1].strip():
        raise ValueError(
            f'CHANGELOG.md has nothing under "## [{version}] - <year>-<month>-<day>"'
        )
    return section[1].strip()


def main() -> None:
    """Print it, or exit with 1."""
    try:
        (tag,) = sys.argv[1:]
        version = runpy.run_path(str(ROOT / 'ubn_mmdet/version.py'))['__version__']
        print(release_notes(tag, version, (ROOT / 'CHANGELOG.md').read_text()))
    except ValueError as error:
        sys.exit(f'release: {error}')


if __name__ == '__main__':
    main()
