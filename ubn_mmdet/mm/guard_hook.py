"""The hook that looks, at the first training step, at what became of our layers."""

import logging
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import nn

from ..ops.recompute import is_in_backward
from .members import asks_for_ours, is_ours, kinds, unwrapped
from .replacers import UBNReplacedError


@HOOKS.register_module()
class UBNGuardHook(Hook):
    """Reports our norm layers at the first training step, and stops if they are gone.

    Also warns of a ``norm_eval`` that does not reach them, and of layers that are called
    several times in a step: a norm shared by pyramid levels mixes their statistics,
    trains well, and fails in evaluation. On several ranks it warns of layers that each
    rank has statistics of its own in.

    Every runner has one once ``ubn_mmdet`` is imported.
    """

    def __init__(self) -> None:
        self._has_reported = False
        self._calls: Counter[str] = Counter()
        self._handles: list = []

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Report, before the first step: the model is in training mode by then."""
        if self._has_reported:
            return
        self._has_reported = True
        model = unwrapped(runner)
        layers = {n: m for n, m in model.named_modules() if is_ours(m)}
        if not layers and asks_for_ours(runner.cfg.get('model', {})):
            raise UBNReplacedError(
                'the config has norm layers of ubn_mmdet, but the model has none: '
                'something has replaced them, or the component that is told of them '
                'builds no norm layers'
            )
        if layers:
            print_log(report(layers), logger='current')
        # A warning and no cure: the same model would train otherwise in a loop of one's
        # own. SyncBatchNorm trains on in these places, too.
        if unheeded := unheeded_norm_eval(model):
            _warn(
                f'norm_eval=True does not reach these {kinds(layers.values())} layers, '
                f'which train as if it were False: {", ".join(unheeded)}. Only '
                'nn.BatchNorm2d is frozen there. Set norm_eval=False if they are to train; '
                'if not, let a hook of yours call eval() on them in its before_train_iter.'
            )
        ranks = get_world_size()
        if apart := unmerged(layers.values(), ranks):
            _warn(
                f'{len(apart)} {kinds(apart)} layer(s) do not merge their statistics over '
                f'all {ranks} ranks (sync=False, or sync_group_size): ranks have running '
                'statistics of their own. Those of rank 0 are saved, and after a resume '
                'all ranks have them. Set sync=True, or broadcast_buffers=True in '
                'model_wrapper_cfg, by which all ranks have those of rank 0 throughout.'
            )
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(partial(self._count, name))
            self._handles.append(handle)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Judge the first step's calls."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        shared = {name: count for name, count in self._calls.items() if count > 1}
        if shared:
            name, count = next(iter(shared.items()))
            _warn(
                f'{len(shared)} norm layer(s) of ubn_mmdet were called several times in '
                f'one step, as {name}, {count} times. A norm that is shared by pyramid '
                'levels mixes their statistics and fails in evaluation: use a head with a '
                'norm for each level (RetinaSepBNHead, as in configs/scratch/).'
            )

    def _count(self, name: str, *_: object) -> None:
        if not is_in_backward():
            self._calls[name] += 1


def report(layers: dict[str, nn.Module]) -> str:
    """How many of our layers each component has and how many are in training mode.

    Args:
        layers: By their names in the model.
    """
    total: Counter[str] = Counter()
    training: Counter[str] = Counter()
    for name, layer in layers.items():
        head, *rest = name.split('.')
        component = f'{head}.{rest[0]}' if head == 'roi_head' and rest else head
        total[component] += 1
        training[component] += layer.training
    parts = (f'{c}: {total[c]} ({training[c]} in training mode)' for c in total)
    return f'{kinds(layers.values())} layers: {", ".join(parts)}'


def unmerged(layers: Iterable[Any], ranks: int) -> list[Any]:
    """Those of our layers in training that have not the statistics of all ranks."""
    if ranks == 1:
        return []
    return [
        layer
        for layer in layers
        if layer.training
        and not (layer.sync and layer.sync_group_size in (None, ranks))
    ]


def unheeded_norm_eval(model: nn.Module) -> list[str]:
    """Modules that were told ``norm_eval=True`` and have layers of ours in training."""
    found = []
    for name, module in model.named_modules():
        if getattr(module, 'norm_eval', None) is True:
            count = sum(m.training for m in module.modules() if is_ours(m))
            if count:
                found.append(f'{name or "model"} ({type(module).__name__}): {count}')
    return found


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
