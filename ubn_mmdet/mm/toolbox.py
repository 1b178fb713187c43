"""Which toolbox is supported, and a sentence that helps where it is not there.

The toolbox is MMEngine, MMCV and MMDetection, of either distribution: OpenMMLab's own
or OneDL's continuation (same import names). Importing this module imports none of it.
"""

import os
import re
import warnings
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple


class ToolboxError(ImportError):
    """The installed toolbox cannot be used; the message says what is wrong."""


class Part(NamedTuple):
    """One package of the toolbox: its import name, and the versions that are supported.

    OneDL's distribution of it comes first, then OpenMMLab's, and others of that.
    """

    module: str
    distributions: tuple[str, ...]
    oldest: str
    beyond: str


MMENGINE = Part(
    'mmengine', ('onedl-mmengine', 'mmengine', 'mmengine-lite'), '0.10.0', '1.0.0'
)
MMCV = Part('mmcv', ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'), '2.0.0', '3.0.0')
MMDET = Part('mmdet', ('onedl-mmdetection', 'mmdet'), '3.0.0', '4.0.0')
PARTS = MMENGINE, MMCV, MMDET
# For pre-training alone.
MMPRETRAIN = Part('mmpretrain', ('onedl-mmpretrain', 'mmpretrain'), '1.0.0', '2.0.0')
# By the package whose tools are to run: the parts, and what must import of them.
NEEDS = {
    'mmdet': (PARTS, ('mmengine.registry', 'mmcv.ops', 'mmdet')),
    'mmpretrain': ((MMENGINE, MMCV, MMPRETRAIN), ('mmpretrain',)),
}


def mmengine_problem() -> str | None:
    """Why UBN cannot be registered with the MMEngine that is installed, if there is one."""
    if find_spec('mmengine') is None:
        return None
    return _metadata_problem(MMENGINE) or _import_problem('mmengine.registry')


def toolbox_problems(package: str = 'mmdet') -> list[str]:
    """What keeps models of a package from being trained here, one sentence each.

    Of what fails in importing, the first.
    """
    parts, modules = NEEDS[package]
    found = [*map(_metadata_problem, parts), _pkg_resources_problem()]
    problems = [problem for problem in found if problem]
    for module in modules:
        if not problems and (problem := _import_problem(module)):
            problems.append(problem)
    return problems


def toolbox_notes() -> list[str]:
    """What works only in part with this toolbox, one sentence each.

    OpenMMLab's MMEngine cannot load with a PyTorch that loads weights only unless told.
    """
    is_allowed = os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0') not in (
        '0',
        '',
    )
    engines = installed(MMENGINE)
    if not engines or is_allowed:
        return []
    (name, version), torch = engines[0], metadata.version('torch')
    if _is_onedl(name) or _numbers(version) > (0, 10, 7) or _numbers(torch) < (2, 6):
        return []
    return [
        f'{name} {version} cannot load its own checkpoints with torch '
        f'{torch} (weights_only), so resuming and testing fail: use '
        'onedl-mmengine or torch<2.6, or set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 '
        'if you trust the checkpoints.'
    ]


def require_toolbox(package: str = 'mmdet') -> None:
    """Check the toolbox before work that needs it; its notes become warnings.

    ``package`` is ``'mmpretrain'`` for pre-training.

    Raises:
        ToolboxError: If a part is absent, too old or does not import.
    """
    if problems := toolbox_problems(package):
        raise ToolboxError('\n'.join(problems))
    for note in toolbox_notes():
        warnings.warn(note, stacklevel=2)


def installed(part: Part) -> list[tuple[str, str]]:
    """The distributions that provide ``part``: (name, version), OneDL's first."""
    found = []
    for name in part.distributions:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _metadata_problem(part: Part) -> str | None:
    """What is wrong with ``part`` as far as one can tell without importing it."""
    found = installed(part)
    if find_spec(part.module) is None:
        onedl, openmmlab, *_ = part.distributions
        return (
            f"{part.module} is not installed: pip install {onedl}, or OpenMMLab's "
            f'{openmmlab}'
        )
    oldest, beyond = _numbers(part.oldest), _numbers(part.beyond)
    # Without metadata it is a checkout on the path: only its import can show a problem.
    if not found or any(oldest <= _numbers(version) < beyond for _, version in found):
        return None
    name, version = found[0]
    return (
        f'{name} {version} is not supported (from {part.oldest}, before {part.beyond})'
    )


def _pkg_resources_problem() -> str | None:
    """OpenMMLab's MMEngine resolves ``mmdet::`` configs by pkg_resources."""
    names = [name for name, _ in installed(MMENGINE)]
    if not names or any(map(_is_onedl, names)) or find_spec('pkg_resources'):
        return None
    return 'mmengine needs pkg_resources: pip install "setuptools<81"'


def _is_onedl(distribution: str) -> bool:
    return distribution.startswith('onedl-')


def _import_problem(module: str) -> str | None:
    try:
        import_module(module)
    # MMDetection asserts, compiled parts raise OSError or RuntimeError, and an import
    # of half a package may raise anything: whatever it is, the user gets a sentence.
    except Exception as error:
        return f'{module} does not import ({type(error).__name__}: {error})'
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:3])
