"""Registers the norm layers and guards them when imported.

In MMEngine's root registry: a class registered in MMDetection's own resolves only under
the scope ``mmdet``.
"""

from mmengine.registry import MODELS

from ..layers import UBN
from . import guard

MODELS.register_module(name='UBN', module=UBN)
guard.install()
