"""Runs the toolbox's own command lines, so that ours do exactly what they do."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import torch.distributed as dist

from .toolbox import ToolboxError, require_pretraining, require_toolbox


def find_tool(package_name: str, name: str) -> Path:
    """A package's ``tools/<name>.py``: of the installed package or of a checkout.

    Raises:
        ToolboxError: If the package is not there or came without its tools.
    """
    spec = find_spec(package_name)
    if spec is None or spec.origin is None:
        raise ToolboxError(f'{package_name} is not installed')
    package = Path(spec.origin).parent
    candidates = package / '.mim' / 'tools', package.parent / 'tools'
    for folder in candidates:
        if (folder / f'{name}.py').is_file():
            return folder / f'{name}.py'
    places = ' nor '.join(map(str, candidates))
    raise ToolboxError(
        f"{package_name}'s {name}.py is neither in {places}: install it again from a "
        'wheel, or use its checkout with `pip install -e`'
    )


def run_mmdet_tool(name: str) -> None:
    """Run MMDetection's ``tools/<name>.py`` as the main program, on ``sys.argv``.

    Raises:
        ToolboxError: If the toolbox cannot be used or has no such tool.
    """
    require_toolbox()
    join_ranks_on_cpu()
    runpy.run_path(str(find_tool('mmdet', name)), run_name='__main__')


def run_mmpretrain_tool(name: str) -> None:
    """Run MMPreTrain's ``tools/<name>.py`` as the main program, on ``sys.argv``.

    Raises:
        ToolboxError: If MMPreTrain cannot be used or has no such tool.
    """
    require_pretraining()
    join_ranks_on_cpu()
    runpy.run_path(str(find_tool('mmpretrain', name)), run_name='__main__')


def join_ranks_on_cpu() -> None:
    """Let the processes of torchrun meet over gloo where there is no accelerator.

    The toolbox's own launcher wants a CUDA device; it leaves alone what it finds ready.
    The model wrapper then needs ``device_ids=None``, as in the demo's configs.
    """
    from mmengine.device import get_device

    if dist.is_torchelastic_launched() and get_device() == 'cpu':
        dist.init_process_group('gloo')
