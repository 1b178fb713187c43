"""``python -m ubn_mmdet``: where an installation keeps things, and the versions.

The exit status is 1 if the toolbox cannot train detectors; what keeps it is printed.
"""

import platform
import sys
from importlib import metadata

from .mm import toolbox
from .paths import comparisons_dir, configs_dir, tools_dir
from .version import __version__


def main() -> int:
    """Print the report; the exit status."""
    problems = toolbox.toolbox_problems()
    lines = {
        'ubn_mmdet': __version__,
        'configs': configs_dir(),
        'tools': tools_dir(),
        'comparisons': comparisons_dir(),
        'python': platform.python_version(),
        'torch': _version('torch'),
        **{part.module: _part(part) for part in toolbox.PARTS},
        'pycocotools': _version('pycocotools'),
        'UBN': _registered(),
    }
    for name, value in lines.items():
        print(f'{name:<12} {value}')
    for sentence in problems:
        print(f'\nProblem: {sentence}')
    for sentence in toolbox.toolbox_notes():
        print(f'\nNote: {sentence}')
    return 1 if problems else 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'not installed'


def _part(part: toolbox.Part) -> str:
    found = toolbox.installed(part)
    return ', '.join(f'{version} ({name})' for name, version in found) or (
        'not installed'
    )


def _registered() -> str:
    try:
        from mmengine.registry import MODELS
    except Exception:  # a broken toolbox: its problem is printed as a sentence
        return 'not registered'
    return 'registered' if 'UBN' in MODELS else 'not registered'


if __name__ == '__main__':
    sys.exit(main())
