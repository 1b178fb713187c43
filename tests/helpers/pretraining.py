"""MMPreTrain in tests: beside the toolbox, or in its own folder, as .ci/setup.sh has it.

It is not imported into the tests' own process, where MMDetection would use it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .commands import ROOT

FOLDER = Path(sys.prefix) / 'pretraining'
# torchvision is MMPreTrain's, and may have been built for another PyTorch.
PATHS = [ROOT / 'tests/shims', *([FOLDER] if FOLDER.is_dir() else [])]
PYTHONPATH = os.pathsep.join(map(str, PATHS))

needs_mmpretrain = pytest.mark.skipif(
    not FOLDER.is_dir() and find_spec('mmpretrain') is None,
    reason='MMPreTrain is not installed (.ci/pretraining.txt)',
)
