"""Unified Batch Normalization (arXiv 2311.15993) and its family for MMDetection 3.x.

Importing this package registers the norm layers wherever MMEngine is installed:
``norm_cfg=dict(type='UBN')``. The layers themselves need PyTorch alone.
"""

import warnings
from importlib.util import find_spec

from . import layers
from .layers import *  # noqa: F403
from .mm.toolbox import mmengine_problem
from .ops.padding import padded_images
from .ops.passes import choose_passes, reference_passes
from .version import __version__

__all__ = ['__version__', 'choose_passes', 'padded_images', 'reference_passes']
__all__ += layers.__all__


def _register() -> None:
    """Register the layers, or say why the toolbox that is installed cannot have them."""
    if find_spec('mmengine') is None:
        return
    if problem := mmengine_problem():
        warnings.warn(f'no norm layer is registered: {problem}', stacklevel=3)
        return
    from .mm import register  # noqa: F401


layers.replacers.install()
_register()
