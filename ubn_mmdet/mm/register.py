"""Registers the norm layers and hooks when imported, and guards the layers.

In MMEngine's root registry: a class registered in MMDetection's own resolves only under
the scope ``mmdet``.
"""

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import FAMILY, CentralizedConv2d
from . import folded_detector, guard, optim, start_hooks  # noqa: F401


@MODELS.register_module(name='PaddingAware')
def padding_aware(**settings: Any) -> nn.Module:
    """Build a :class:`~ubn_mmdet.mm.padding_aware.PaddingAware`."""
    from .padding_aware import PaddingAware  # MMDetection's models load slowly

    return PaddingAware(**settings)


for member in FAMILY:
    MODELS.register_module(name=member.__name__, module=member)
MODELS.register_module(module=CentralizedConv2d)
guard.install()
