"""Runs MMDetection's own command lines, so that ours are theirs by construction."""

import runpy
from importlib.util import find_spec
from pathlib import Path

from .toolbox import ToolboxError, require_toolbox


def find_mmdet_tool(name: str) -> Path:
    """MMDetection's ``tools/<name>.py``: of the installed package or of a checkout.

    Raises:
        ToolboxError: If MMDetection is not there or came without its tools.
    """
    spec = find_spec('mmdet')
    if spec is None or spec.origin is None:
        raise ToolboxError('mmdet is not installed')
    package = Path(spec.origin).parent
    candidates = package / '.mim' / 'tools', package.parent / 'tools'
    for folder in candidates:
        if (folder / f'{name}.py').is_file():
            return folder / f'{name}.py'
    places = ' nor '.join(map(str, candidates))
    raise ToolboxError(
        f"MMDetection's {name}.py is neither in {places}: install it again from a "
        'wheel, or use its checkout with `pip install -e`'
    )


def run_mmdet_tool(name: str) -> None:
    """Run MMDetection's ``tools/<name>.py`` as the main program, on ``sys.argv``.

    Raises:
        ToolboxError: If the toolbox cannot be used or has no such tool.
    """
    require_toolbox()
    runpy.run_path(str(find_mmdet_tool(name)), run_name='__main__')
