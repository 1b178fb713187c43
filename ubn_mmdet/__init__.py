"""Unified Batch Normalization (arXiv 2311.15993) and its family for MMDetection 3.x.

Importing this package registers the norm layers wherever MMEngine is installed:
``norm_cfg=dict(type='UBN')``. The layers themselves need PyTorch alone.
"""

import warnings
from importlib.util import find_spec

from .layers import (
    BGN,
    BNET,
    IEBN,
    L2BN,
    MABN,
    MBN,
    RBN,
    UBN,
    BatchRenorm,
    CentralizedConv2d,
    InitBN,
    JSNorm,
    PowerNorm,
    convert_batchnorm,
    hide_padding,
    precise_statistics,
    second_forward,
)
from .mm.toolbox import mmengine_problem
from .ops.padding import padded_images
from .ops.passes import choose_passes, reference_passes
from .version import __version__

__all__ = [
    'BGN',
    'BNET',
    'IEBN',
    'L2BN',
    'MABN',
    'MBN',
    'RBN',
    'UBN',
    'BatchRenorm',
    'CentralizedConv2d',
    'InitBN',
    'JSNorm',
    'PowerNorm',
    '__version__',
    'choose_passes',
    'convert_batchnorm',
    'hide_padding',
    'padded_images',
    'precise_statistics',
    'reference_passes',
    'second_forward',
]


def _register() -> None:
    """Register the layers, or say why the toolbox that is installed cannot have them."""
    if find_spec('mmengine') is None:
        return
    if problem := mmengine_problem():
        warnings.warn(f'no norm layer is registered: {problem}', stacklevel=3)
        return
    from .mm import register  # noqa: F401


_register()
