"""Putting another norm into the config of a model."""

import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from .config_nodes import all_nodes

BATCHNORMS = ('BN', 'BN2d', 'SyncBN', 'MMSyncBN')


def with_norm(model: ConfigDict, norm: Mapping[str, Any]) -> ConfigDict:
    """``model`` with ``norm`` for every BatchNorm that a ``norm_cfg`` can name.

    What else a ``norm_cfg`` says holds for the new norm as well (``requires_grad``,
    ``eps``, ``momentum``). Where the config is silent and the class's own default is a
    BatchNorm, the ``norm_cfg`` is written out.
    """
    model = deepcopy(model)
    for node in list(all_nodes(model)):
        for key, default in _silent_defaults(node):
            node[key] = deepcopy(default)
    for node in all_nodes(model):
        for key, value in node.items():
            if 'norm' in key and _is_batchnorm(value):
                node[key] = ConfigDict(value, **norm)
    return model


def _is_batchnorm(value: object) -> bool:
    return isinstance(value, Mapping) and value.get('type') in BATCHNORMS


def _silent_defaults(node: ConfigDict) -> Iterator[tuple[str, Mapping]]:
    """Arguments of the class that ``node`` builds whose default is a BatchNorm."""
    kind = node.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    for base in getattr(cls, '__mro__', ()):
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        for name, parameter in parameters.items():
            if 'norm' in name and name not in node and _is_batchnorm(parameter.default):
                yield name, parameter.default
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return  # nothing is passed on to the bases
