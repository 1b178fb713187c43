"""Putting a norm in the place of every BatchNorm of a model's config."""

import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from ..layers import FAMILY
from .config_nodes import all_nodes, type_name

# BatchNorm of images, and its relatives.
REPLACED = (
    'BN', 'BN2d', 'BatchNorm2d', 'SyncBN', 'MMSyncBN', 'SyncBatchNorm',
    *(member.__name__ for member in FAMILY),
)  # fmt: skip
# What holds for a norm whatever its kind, and for one that is like BatchNorm.
_KEPT = 'eps', 'affine'
_KEPT_BY_BATCHNORMS = *_KEPT, 'momentum', 'track_running_stats'


def with_norm(
    model: ConfigDict, norm: Mapping[str, Any], scope: str = 'mmdet'
) -> ConfigDict:
    """``model`` with ``norm`` for every BatchNorm that a config can name.

    ``eps`` and ``momentum`` of the norm that is replaced hold for the new one where that
    states none and has such a setting. Whether it is trained (``requires_grad``) is said by
    the one that is replaced, if it says so. Where the config is silent and the class's own
    default is a BatchNorm, the new norm is written out. A model without a BatchNorm stays
    as it is.

    Args:
        model: Of a config.
        norm: The new ``norm_cfg``.
        scope: Of the toolbox in whose registry the model's classes are.
    """
    model = deepcopy(model)
    names = _KEPT_BY_BATCHNORMS if _is_batchnorm(norm) else _KEPT
    for node, key, old in list(batchnorms(model, scope)):
        kept = {name: old[name] for name in names if name in old}
        trained = {k: v for k, v in old.items() if k == 'requires_grad'}
        node[key] = ConfigDict({**kept, **deepcopy(dict(norm)), **trained})
    return model


def with_batchnorm_alone(model: ConfigDict) -> ConfigDict:
    """``model`` with BatchNorm for every norm of any kind that the config names."""
    model = deepcopy(model)
    for node in list(all_nodes(model)):
        for key, value in list(node.items()):
            if 'norm' in key and isinstance(value, Mapping) and 'type' in value:
                node[key] = ConfigDict(type='BN')
    return model


def batchnorms(
    model: ConfigDict, scope: str = 'mmdet'
) -> Iterator[tuple[ConfigDict, str, Mapping]]:
    """Each BatchNorm of a model: the node, the key in it, and the ``norm_cfg``."""
    for node in list(all_nodes(model)):
        for key, value in list(node.items()):
            if 'norm' in key and _is_batchnorm(value):
                yield node, key, value
        for key, value in _silent_defaults(node, scope):
            yield node, key, value


def _is_batchnorm(value: object) -> bool:
    return isinstance(value, Mapping) and type_name(value) in REPLACED


def _silent_defaults(node: ConfigDict, scope: str) -> Iterator[tuple[str, Mapping]]:
    """Arguments of the class that ``node`` builds whose default is a BatchNorm."""
    cls = node.get('type')
    if isinstance(cls, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            cls = registry.get(cls)
    for base in getattr(cls, '__mro__', ()):
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        for name, parameter in parameters.items():
            if 'norm' in name and name not in node and _is_batchnorm(parameter.default):
                yield name, parameter.default
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return  # nothing is passed on to the bases
