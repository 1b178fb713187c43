"""Runs the toolbox's own command lines, so that ours do exactly what they do."""

import argparse
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import torch.distributed as dist

from .toolbox import ToolboxError, require_toolbox


def find_tool(package_name: str, name: str) -> Path:
    """A package's ``tools/<name>.py``: of the installed package or of a checkout.

    Raises:
        ToolboxError: If the package is not there, came without its tools, or has no such
            tool.
    """
    spec = find_spec(package_name)
    if spec is None or spec.origin is None:
        raise ToolboxError(f'{package_name} is not installed')
    package = Path(spec.origin).parent
    candidates = package / '.mim' / 'tools', package.parent / 'tools'
    for folder in candidates:
        if (folder / f'{name}.py').is_file():
            return folder / f'{name}.py'
    for folder in candidates:
        if there := sorted(folder.rglob('*.py')):
            names = [str(p.relative_to(folder).with_suffix('')) for p in there]
            raise ToolboxError(
                f'{package_name} has no tool {name!r}; it has {", ".join(names)}'
            )
    places = ' nor '.join(map(str, candidates))
    raise ToolboxError(
        f"{package_name}'s {name}.py is neither in {places}: install it again from a "
        'wheel, or use its checkout with `pip install -e`'
    )


def run_tool(package: str, name: str, description: str) -> None:
    """Be a command line: run ``tools/<name>.py`` of mmdet or mmpretrain on ``sys.argv``.

    If the toolbox cannot be used, the program ends with what is wrong, and ``--help``
    prints ``description``, what ours does, in place of the tool's own.
    """
    try:
        require_toolbox(package)
        tool = find_tool(package, name)
    except ToolboxError as error:
        if {'-h', '--help'}.isdisjoint(sys.argv):
            sys.exit(f'{Path(sys.argv[0]).stem}: {error}')
        print(f'{description}\nIts options cannot be shown here:\n{error}')
        return
    join_ranks_on_cpu()
    runpy.run_path(str(tool), run_name='__main__')


@contextmanager
def resumable() -> Iterator[None]:
    """End the program at an interruption, SIGTERM included, with what to do next."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print('\nInterrupted: the same command resumes.', file=sys.stderr)
        sys.exit(130)


@contextmanager
def ended_by(*errors: type[Exception]) -> Iterator[None]:
    """End the program with the message of one of these errors, should it come."""
    try:
        yield
    except errors as error:
        sys.exit(f'{Path(sys.argv[0]).stem}: {error}')


def tool_parser(
    description: str | None, prog: str | None = None
) -> argparse.ArgumentParser:
    """A parser whose help has the description as it is written."""
    keep_lines = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog, description=description, formatter_class=keep_lines
    )


def add_cfg_options(
    parser: argparse.ArgumentParser,
    option: str = '--cfg-options',
    what: str = "settings of the config to override, key=value as in MMDetection's tools",
) -> None:
    """Add an option that takes ``key=value`` as MMDetection's tools do.

    Without MMEngine there is the help alone: values stay text.
    """
    action: type[argparse.Action] | str = 'store'
    with suppress(ImportError):
        from mmengine.config import DictAction

        action = DictAction
    parser.add_argument(option, nargs='+', action=action, help=what)


def join_ranks_on_cpu() -> None:
    """Let the processes of torchrun meet over gloo where there is no accelerator.

    The toolbox's own launcher wants a CUDA device; it leaves alone what it finds ready.
    The model wrapper then needs ``device_ids=None``, as in the demo's configs.
    """
    from mmengine.device import get_device

    if dist.is_torchelastic_launched() and get_device() == 'cpu':
        dist.init_process_group('gloo')
