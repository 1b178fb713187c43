"""Which toolbox is supported, and a sentence that helps where it is not there.

The toolbox is MMEngine, MMCV and MMDetection, of either distribution: OpenMMLab's own
or OneDL's continuation (same import names). Importing this module imports none of it.
"""

import os
import re
import warnings
from importlib import import_module, metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import NamedTuple


class ToolboxError(ImportError):
    """The installed toolbox cannot be used; the message says what to do."""


class Part(NamedTuple):
    """One package of the toolbox."""

    module: str
    onedl: str
    openmmlab: tuple[str, ...]
    oldest: str
    beyond: str
    install_onedl: str
    install_openmmlab: str


MMENGINE = Part(
    module='mmengine',
    onedl='onedl-mmengine',
    openmmlab=('mmengine', 'mmengine-lite'),
    oldest='0.10.0',
    beyond='1.0.0',
    install_onedl='pip install "onedl-mmengine>=0.10.8,<1"',
    install_openmmlab='pip install "mmengine>=0.10.0,<1"',
)
MMCV = Part(
    module='mmcv',
    onedl='onedl-mmcv',
    openmmlab=('mmcv', 'mmcv-lite', 'mmcv-full'),
    oldest='2.0.0',
    beyond='3.0.0',
    install_onedl='MMCV_WITH_OPS=1 pip install --no-build-isolation "onedl-mmcv<3"',
    install_openmmlab='pip install openmim && mim install "mmcv>=2.0.0,<2.2.0"',
)
MMDET = Part(
    module='mmdet',
    onedl='onedl-mmdetection',
    openmmlab=('mmdet',),
    oldest='3.0.0',
    beyond='4.0.0',
    install_onedl='pip install "onedl-mmdetection>=3.4,<4"',
    install_openmmlab='pip install "mmdet>=3.0.0,<4"',
)
PARTS = MMENGINE, MMCV, MMDET
# For pre-training alone.
MMPRETRAIN = Part(
    module='mmpretrain',
    onedl='onedl-mmpretrain',
    openmmlab=('mmpretrain',),
    oldest='1.0.0',
    beyond='2.0.0',
    install_onedl='pip install "onedl-mmpretrain<2"',
    install_openmmlab='pip install "mmpretrain>=1.0.0,<2"',
)

# What an import error of the toolbox means, by a pattern in its text.
ADVICE = {
    r'pkg_resources': 'it needs pkg_resources: pip install "setuptools<81"',
    r'lib(GL|EGL|gthread|SM|Xext)\b.*\.so': (
        'OpenCV misses a system library: pip uninstall opencv-python, then '
        'pip install --force-reinstall opencv-python-headless'
    ),
    r'MMCV==': (
        'MMDetection refuses this MMCV: install one in the range it names, or '
        'onedl-mmdetection, which accepts newer ones'
    ),
    r'torchvision::': (
        'torchvision was built for another PyTorch: install the two of one build; '
        'configs/protocol/README.md says what helps where there is none'
    ),
    r'undefined symbol|\.so.*cannot open': (
        'its compiled part was built for another PyTorch: install it again with '
        '--no-cache-dir --force-reinstall --no-deps --no-build-isolation'
    ),
    r'numpy\.core\.multiarray|_ARRAY_API|numpy\.dtype size': (
        'a package was compiled for another NumPy: install it again, or numpy<2'
    ),
}


def mmengine_problem() -> str | None:
    """Why UBN cannot be registered with the MMEngine that is installed.

    None where it can be, and where there is no MMEngine: nothing is wrong then.
    """
    if find_spec('mmengine') is None:
        return None
    return _metadata_problem(MMENGINE) or _import_problem('mmengine.registry')


def toolbox_problems() -> list[str]:
    """What keeps detectors from being trained here, one sentence each; or nothing.

    Looks at the metadata first, and imports the toolbox only if that is in order.
    """
    found = [*map(_metadata_problem, PARTS), _ops_problem(), _pkg_resources_problem()]
    if problems := [problem for problem in found if problem]:
        return problems
    # A failed import makes the later ones fail: report the first alone.
    for module in ('mmengine.registry', 'mmcv.ops', 'mmdet'):
        if problem := _import_problem(module):
            return [problem]
    return []


def toolbox_notes() -> list[str]:
    """What works only in part with this toolbox, one sentence each."""
    notes = [*map(_overlay_note, PARTS), _checkpoint_note()]
    return [note for note in notes if note]


def require_toolbox() -> None:
    """Check the toolbox before work that needs it; its notes become warnings.

    Raises:
        ToolboxError: If it is absent, half installed, too old or does not import.
    """
    if problems := toolbox_problems():
        raise ToolboxError('\n'.join(problems))
    for note in toolbox_notes():
        warnings.warn(note, stacklevel=2)


def require_pretraining() -> None:
    """Check MMPreTrain, and what of the toolbox it needs, before work with it.

    Raises:
        ToolboxError: If something is absent, half installed, too old or does not import.
    """
    if problems := [
        p for p in map(_metadata_problem, (MMENGINE, MMCV, MMPRETRAIN)) if p
    ]:
        raise ToolboxError('\n'.join(problems))
    if problem := _import_problem('mmpretrain'):
        raise ToolboxError(problem)


def installed(part: Part) -> list[tuple[str, str]]:
    """The distributions that provide ``part``: (name, version), OneDL's first."""
    found = []
    for name in (part.onedl, *part.openmmlab):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _metadata_problem(part: Part) -> str | None:
    """What is wrong with ``part`` as far as one can tell without importing it."""
    found = installed(part)
    if find_spec(part.module) is None:
        return f'{part.module} is not installed: {_install(part)}'
    oldest, beyond = _numbers(part.oldest), _numbers(part.beyond)
    # Without metadata it is a checkout on the path: only its import can show a problem.
    if not found or any(oldest <= _numbers(version) < beyond for _, version in found):
        return None
    name, version = found[0]
    return (
        f'{name} {version} is not supported (from {part.oldest}, before '
        f'{part.beyond}): {_install(part)}'
    )


def _overlay_note(part: Part) -> str | None:
    """Distributions of one import name overwrite each other's files."""
    names = ' '.join(name for name, _ in installed(part))
    if ' ' not in names:
        return None
    return (
        f'{names} are installed over each other in one folder {part.module}/; if '
        f'anything is odd: pip uninstall -y {names}, then {_install(part)}'
    )


def _checkpoint_note() -> str | None:
    """OpenMMLab's MMEngine with a PyTorch that loads weights only unless told."""
    engine = next(iter(installed(MMENGINE)), None)
    if engine is None or engine[0] == MMENGINE.onedl:
        return None
    torch_version = metadata.version('torch')
    if _numbers(torch_version) < (2, 6) or _numbers(engine[1]) > (0, 10, 7):
        return None
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0') not in ('0', ''):
        return None
    return (
        f'{engine[0]} {engine[1]} cannot load its own checkpoints with torch '
        f'{torch_version} (weights_only), so resuming and testing fail: use '
        'onedl-mmengine or torch<2.6, or set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 '
        'if you trust the checkpoints.'
    )


def _ops_problem() -> str | None:
    """Whether MMCV came without its compiled operators, without importing it."""
    spec = find_spec('mmcv')
    if spec is None or PathFinder.find_spec(
        'mmcv._ext', spec.submodule_search_locations
    ):
        return None
    name = next((name for name, _ in installed(MMCV)), 'mmcv')
    return (
        f'{name} has no compiled operators (mmcv._ext), which detectors need: '
        f'pip uninstall -y {name}, then {_install(MMCV)}'
    )


def _pkg_resources_problem() -> str | None:
    """OpenMMLab's MMEngine resolves ``mmdet::`` configs by pkg_resources."""
    names = [name for name, _ in installed(MMENGINE)]
    if not names or MMENGINE.onedl in names or find_spec('pkg_resources'):
        return None
    return f'mmengine: {ADVICE["pkg_resources"]}, or use onedl-mmengine'


def _import_problem(module: str) -> str | None:
    try:
        import_module(module)
    # MMDetection asserts, compiled parts raise OSError or RuntimeError, and an import
    # of half a package may raise anything: whatever it is, the user gets a sentence.
    except Exception as error:
        text = f'{type(error).__name__}: {error}'
        advice = next((ADVICE[key] for key in ADVICE if re.search(key, text)), None)
        return f'{module} does not import ({text})' + (f': {advice}' if advice else '')
    return None


def _install(part: Part) -> str:
    """The command that installs ``part``, of the distribution that is in use."""
    names = {name for each in PARTS for name, _ in installed(each)}
    onedl = not names or names & {each.onedl for each in PARTS}
    return part.install_onedl if onedl else part.install_openmmlab


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:3])
