"""Registers the norm layers and hooks when imported, and guards the layers.

In MMEngine's root registry: a class registered in MMDetection's own resolves only under
the scope ``mmdet``.
"""

from mmengine.registry import MODELS

from ..layers import UBN
from . import condensation_hook, guard  # noqa: F401

MODELS.register_module(name='UBN', module=UBN)
guard.install()
