"""Keeps UBN layers from being replaced without a word.

Some functions of PyTorch and of the toolbox take every child of ``_BatchNorm`` for a
BatchNorm and put something else in its place. :func:`install`, called when the package is
imported, makes them refuse a model with UBN. :class:`UBNGuardHook` looks at what arrived
at the start of training.
"""

import functools
import importlib
import logging
from collections import Counter
from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..layers import UBN
from ..ops.recompute import is_recomputation

SYNC = (
    'it would turn them into plain SyncBatchNorm. UBN merges its statistics over ranks by '
    'itself: leave out sync_bn'
)
FUSE = (
    'it would fold them into convolutions as if they were BatchNorm, and UBN in evaluation '
    'depends on its input. For layers whose own stages do nothing, '
    'tools/convert_checkpoint.py --to bn gives a BatchNorm model first'
)

# Module, attribute and consequence. What is named is what callers look up when they run,
# not the names that they imported; it is where all of them end.
REPLACERS = (
    ('torch.nn.modules.batchnorm', 'SyncBatchNorm.convert_sync_batchnorm', SYNC),
    ('mmengine.model.utils', 'convert_sync_batchnorm', SYNC),
    ('mmengine.model', 'convert_sync_batchnorm', SYNC),
    ('mmengine.runner.runner', 'convert_sync_batchnorm', SYNC),
    ('mmengine.model.efficient_conv_bn_eval', 'efficient_conv_bn_eval_forward', FUSE),
    (
        'mmengine.model.efficient_conv_bn_eval',
        'turn_on_efficient_conv_bn_eval_for_single_model',
        FUSE,
    ),
    ('mmcv.cnn.bricks.conv_module', 'efficient_conv_bn_eval_forward', FUSE),
    ('mmcv.cnn.utils.fuse_conv_bn', '_fuse_conv_bn', FUSE),
)


class UBNReplacedError(RuntimeError):
    """UBN layers would be, or have been, replaced by something else."""


def install() -> None:
    """Make the toolbox's replacers refuse UBN, and its runner report UBN."""
    for module, path, consequence in REPLACERS:
        _guard(module, path, consequence)
    Runner.register_hooks = _with_guard_hook(Runner.register_hooks)


def _guard(module: str, path: str, consequence: str) -> None:
    try:
        owner = importlib.import_module(module)
        *parents, name = path.split('.')
        for parent in parents:
            owner = getattr(owner, parent)
        original = getattr(owner, name)
    except (ImportError, AttributeError):  # another version: nothing to guard
        return
    guarded = _refuse_ubn(original, path, consequence)
    setattr(owner, name, staticmethod(guarded) if parents else guarded)


def _refuse_ubn(original: Callable, name: str, consequence: str) -> Callable:
    @functools.wraps(original)
    def guarded(*args, **kwargs):
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, nn.Module):
                count = sum(isinstance(module, UBN) for module in argument.modules())
                if count:
                    raise UBNReplacedError(
                        f'{name} met {count} UBN layer(s): {consequence}.'
                    )
        return original(*args, **kwargs)

    return guarded


def _with_guard_hook(original: Callable) -> Callable:
    @functools.wraps(original)
    def register_hooks(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if not any(isinstance(hook, UBNGuardHook) for hook in self.hooks):
            self.register_hook(UBNGuardHook())

    return register_hooks


@HOOKS.register_module()
class UBNGuardHook(Hook):
    """Reports the UBN layers at the first training step, and stops if they are gone.

    Also warns of layers that are called several times in a step: a norm shared by
    pyramid levels mixes their statistics, trains well, and fails in evaluation.

    Every runner has one once ``ubn_mmdet`` is imported.
    """

    def __init__(self) -> None:
        self._calls: Counter[str] | None = None
        self._handles: list = []

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Report, before the first step: the model is in training mode by then."""
        if self._calls is not None:
            return
        self._calls = Counter()
        layers = _ubn_layers(runner)
        configured = _mentions_ubn(runner.cfg.get('model', {}))
        if configured and not layers:
            raise UBNReplacedError(
                'the config has norm layers of type UBN, but the model has none: '
                'something has replaced them'
            )
        if layers:
            print_log(report(layers), logger='current')
        for name, layer in layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._counter(name)))

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Judge the first step's calls."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        shared = {name: count for name, count in self._calls.items() if count > 1}
        if shared:
            name, count = next(iter(shared.items()))
            print_log(
                f'{len(shared)} UBN layer(s) were called several times in one step, as '
                f'{name}, {count} times. A norm that is shared by pyramid levels mixes '
                'their statistics and fails in evaluation: use a head with a norm for '
                'each level (RetinaSepBNHead, as in configs/scratch/).',
                logger='current',
                level=logging.WARNING,
            )

    def _counter(self, name: str) -> Callable:
        def count(*_) -> None:
            if not is_recomputation():
                self._calls[name] += 1

        return count


def report(layers: dict[str, UBN]) -> str:
    """How many UBN layers each component has and how many are in training mode.

    Args:
        layers: By their names in the model.
    """
    total, training = Counter(), Counter()
    for name, layer in layers.items():
        head, *rest = name.split('.')
        component = f'{head}.{rest[0]}' if head == 'roi_head' and rest else head
        total[component] += 1
        training[component] += layer.training
    parts = (f'{c}: {total[c]} ({training[c]} in training mode)' for c in total)
    return f'UBN layers: {", ".join(parts)}'


def _ubn_layers(runner: Runner) -> dict[str, UBN]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return {n: m for n, m in model.named_modules() if isinstance(m, UBN)}


def _mentions_ubn(config: object) -> bool:
    if isinstance(config, dict):
        return config.get('type') in ('UBN', UBN) or any(
            map(_mentions_ubn, config.values())
        )
    return isinstance(config, list | tuple) and any(map(_mentions_ubn, config))
