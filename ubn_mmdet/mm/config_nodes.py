"""Reading a config, and finding its parts, wherever they are."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope


def read_config(
    path: str | os.PathLike, options: Mapping[str, object] | None = None
) -> Config:
    """A config, with ``options`` in place of its own settings; its scope is the default."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(dict(options or {}))
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return cfg


def all_nodes(tree: object) -> Iterator[ConfigDict]:
    """All dicts of a config, or of a part of one, outermost first."""
    if isinstance(tree, dict):
        yield cast(ConfigDict, tree)
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for child in tree:
            yield from all_nodes(child)


def type_name(node: Mapping[str, Any]) -> str:
    """The name of the class that a dict builds, without its scope or module."""
    kind = node.get('type')
    return getattr(kind, '__name__', str(kind).rpartition('.')[2])


def pretrained_in(init_cfg: object) -> list[Mapping[str, Any]]:
    """What an ``init_cfg``, a dict or a list of them, says of weights to load."""
    parts = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    return [p for p in parts if isinstance(p, Mapping) and type_name(p) == 'Pretrained']


def param_schedulers(cfg: Config) -> list[ConfigDict]:
    """The schedulers of a config, which may have none, one or a list of them."""
    schedulers = cfg.get('param_scheduler') or []
    return schedulers if isinstance(schedulers, list) else [schedulers]


def nodes_of(tree: object, *types: str) -> list[ConfigDict]:
    """Those that build one of ``types``, whatever the scope."""
    return [node for node in all_nodes(tree) if type_name(node) in types]
