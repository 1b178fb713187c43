"""Run one of MMDetection's own tools, with UBN registered.

The first argument is its path in MMDetection's tools folder, without .py, such as
analysis_tools/get_flops; all others are the tool's.
"""

import sys

import ubn_mmdet  # noqa: F401  registers UBN
from ubn_mmdet.mm.toolbox import ToolboxError
from ubn_mmdet.mm.tools import run_mmdet_tool

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        sys.exit(__doc__)
    try:
        run_mmdet_tool(sys.argv.pop(1))
    except ToolboxError as error:
        sys.exit(f'mmdet_tool: {error}')
