"""Registers the norm layers when imported.

In MMEngine's root registry: a class registered in MMDetection's own resolves only under
the scope ``mmdet``.
"""

from mmengine.registry import MODELS

from ..layers import UBN

MODELS.register_module(name='UBN', module=UBN)
