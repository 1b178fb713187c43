"""A run's model, and which configs ask for this package's norm layers."""

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from torch.distributed.fsdp import FullyShardedDataParallel

from ..layers.pipeline import PipelineNorm
from .config_nodes import all_nodes


def unwrapped(runner: Any) -> Any:
    """The model of a runner, without what distributes it over ranks."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def whole_model(runner: Any, caller: object) -> Any:
    """The model of a runner, for a hook, ``caller``, that calls it or a part of it.

    Raises:
        ValueError: If a rank has only shards of the parameters.
    """
    if isinstance(runner.model, FullyShardedDataParallel):
        raise ValueError(
            f'{type(caller).__name__} calls a part of the model, and FSDP has sharded its '
            'parameters: remove the hook, or train with MMDistributedDataParallel'
        )
    return unwrapped(runner)


def asks_for_ours(config: object) -> bool:
    """Whether a ``type`` anywhere in ``config`` names one of our layers."""
    for node in all_nodes(config):
        kind = node.get('type')
        if isinstance(kind, str):
            # A scope may stand before the name ('mmdet.UBN'), or the path of the class, as
            # configs with lazy imports are written out.
            kind = MODELS.module_dict.get(kind.rpartition('.')[2])
        if isinstance(kind, type) and issubclass(kind, PipelineNorm):
            return True
    return False
