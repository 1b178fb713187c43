"""Pre-train a backbone: MMPreTrain's own tools/train.py, with UBN registered."""

import ubn_mmdet  # noqa: F401  registers UBN
from ubn_mmdet.mm.tools import run_tool

if __name__ == '__main__':
    run_tool('mmpretrain', 'train', __doc__)
