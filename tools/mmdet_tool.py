"""Run one of MMDetection's own tools, with UBN registered.

The first argument is its path in MMDetection's tools folder, without .py, such as
analysis_tools/get_flops; all others are the tool's.
"""

import sys

import ubn_mmdet  # noqa: F401  registers UBN
from ubn_mmdet.mm.tools import run_tool

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] in ('-h', '--help'):
        print(__doc__)
    else:
        run_tool('mmdet', sys.argv.pop(1), __doc__)
