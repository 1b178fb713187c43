"""Lets the toolbox's "start at one" mean "start as this norm starts".

MMEngine's ``constant_init(norm, 1)`` initialises every norm layer, called by each
``ConvModule`` and, through ``init_cfg``, by backbones, with no hook on the norm's side. For
a layer of this package, one is taken for its own start. Every other value is
taken as it is, above all the 0 of ``zero_init_residual``.
"""

import functools
from collections.abc import Callable

from torch import nn

from ..layers.pipeline import PipelineNorm
from .patching import Patch


def _with_own_start(original: Callable) -> Callable:
    @functools.wraps(original)
    def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
        original(module, val, bias)
        if val == 1 and isinstance(module, PipelineNorm) and module.affine:
            module.start_weight()

    return constant_init


STARTS = Patch('mmengine.model.weight_init', 'constant_init', _with_own_start)
