"""Registers ``PaddingAware``, and imports MMDetection's models, slow as it is, on use."""

from typing import Any

from mmengine.registry import MODELS
from torch import nn


def padding_aware(**settings: Any) -> nn.Module:
    """Build a :class:`~ubn_mmdet.mm.padding_aware.PaddingAware`."""
    from .padding_aware import PaddingAware

    return PaddingAware(**settings)


MODELS.register_module(name='PaddingAware', module=padding_aware)
