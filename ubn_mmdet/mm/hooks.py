"""Hooks that look at norm layers in training, and what some of the layers want there."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ..layers import MBN, second_forward
from ..layers.pipeline import PipelineNorm
from ..layers.replacers import UBNReplacedError, kinds
from ..ops.recompute import is_in_backward
from .condensation import has_gate
from .members import asks_for_ours, unwrapped, whole_model


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
        layers = {n: m for n, m in model.named_modules() if isinstance(m, PipelineNorm)}
        if not layers and asks_for_ours(runner.cfg.get('model', {})):
            raise UBNReplacedError(
                'the config has norm layers of ubn_mmdet, but the model has none: '
                'something has replaced them, or the component that is told of them '
                'builds no norm layers'
            )
        if layers:
            runner.logger.info(report(layers))
        # A warning and no cure: the same model would train otherwise in a loop of one's
        # own. SyncBatchNorm trains on in these places, too.
        if unheeded := unheeded_norm_eval(model):
            runner.logger.warning(
                f'norm_eval=True does not reach these {kinds(layers.values())} layers, '
                f'which train as if it were False: {", ".join(unheeded)}. Only '
                'nn.BatchNorm2d is frozen there. Set norm_eval=False if they are to train; '
                'if not, let a hook of yours call eval() on them in its before_train_iter.'
            )
        ranks = get_world_size()
        if apart := unmerged(layers.values(), ranks):
            runner.logger.warning(
                f'{len(apart)} {kinds(apart)} layer(s) do not merge their statistics over '
                f'all {ranks} ranks (sync=False, or sync_group_size): ranks have running '
                'statistics of their own. Those of rank 0 are saved, and after a resume '
                'all ranks have them. Set sync=True, or broadcast_buffers=True in '
                'model_wrapper_cfg, by which all ranks have those of rank 0 throughout.'
            )
        # Hooks that go again would have the model compiled twice.
        if runner.cfg.get('compile'):
            return
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
        # A detector may see its batch in parts, as semi-supervised ones do.
        passes = [n for name, n in self._calls.items() if 'backbone' in name.split('.')]
        once = min(passes, default=1)
        shared = {name: n for name, n in self._calls.items() if n > once}
        if shared:
            name, count = next(iter(shared.items()))
            runner.logger.warning(
                f'{len(shared)} norm layer(s) of ubn_mmdet were called several times in '
                f'one step, as {name}, {count} times. A norm that is shared by pyramid '
                'levels mixes their statistics and fails in evaluation: use a head with a '
                'norm for each level (RetinaSepBNHead, as in configs/scratch/).'
            )

    def _count(self, name: str, layer: nn.Module, *_: object) -> None:
        if layer.training and not is_in_backward():
            self._calls[name] += 1


def report(layers: Mapping[str, nn.Module]) -> str:
    """How many of our layers, by name, each component has, and how many are in training."""
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
    return [x for x in layers if x.training and x.merged_ranks(ranks) < ranks]


def unheeded_norm_eval(model: nn.Module) -> list[str]:
    """Modules that were told ``norm_eval=True`` and have layers of ours in training."""
    found = []
    for name, module in model.named_modules():
        if getattr(module, 'norm_eval', None) is True:
            count = sum(
                m.training for m in module.modules() if isinstance(m, PipelineNorm)
            )
            if count:
                found.append(f'{name or "model"} ({type(module).__name__}): {count}')
    return found


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Gives all ranks the buffers of rank 0 before they evaluate.

    Where norm layers do not merge their statistics (``sync=False``, BatchNorm), each rank
    has running statistics of its own, while a checkpoint holds those of rank 0. An
    evaluation in training would then mix models of which one alone is saved. The ranks
    train on with what they are given, as they do in a run that is resumed.
    """

    priority = 'LOWEST'  # after hooks that put other weights in place, such as EMAHook

    def before_val_epoch(self, runner: Any) -> None:
        """Send them."""
        for buffer in runner.model.buffers():
            broadcast(buffer)


@HOOKS.register_module()
class MergeGatesHook(Hook):
    """Averages ``condensation`` over all ranks after each step, with one all-reduce.

    With ``sync=False``, or a ``sync_group_size``, each rank goes by batches of its own.
    Without this hook one rank's gate could close for good and another's stay open. The
    average over the ranks moves as ``m <- 0.9 m + 0.1 c`` does, with the mean of all ranks'
    ``c``. Where statistics are merged over all ranks there is nothing to do.

    Every runner has one once ``ubn_mmdet`` is imported.
    """

    priority = 'ABOVE_NORMAL'  # before what is recorded after a step

    def before_train(self, runner: Any) -> None:
        """Find the layers."""
        self._layers = [m for m in unwrapped(runner).modules() if has_gate(m)]

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Average."""
        own = [m.condensation for m in unmerged(self._layers, get_world_size())]
        if not own:
            return
        merged = torch.stack(own)
        all_reduce(merged, op='mean')
        for condensation, value in zip(own, merged, strict=True):
            condensation.copy_(value)


@HOOKS.register_module()
class DoubleForwardHook(Hook):
    """Repeats the forward after each update, for ``MBN`` (AAAI 2018, arXiv 2010.04947).

    What the layers have memorized of the batch is replaced by its statistics under the new
    weights. ``custom_hooks = [dict(type='DoubleForwardHook')]`` in a config.

    A step takes a forward more, which is logged as ``data_time``. Augmentations of whole
    batches, in the data preprocessor, are drawn anew. With gradient accumulation the last
    batch before an update is repeated, and the others are not.

    Raises:
        ValueError: At the start of training, if the model has no ``MBN``, or is sharded
            (FSDP).
    """

    # After the hooks that follow the step itself, and before a checkpoint is saved.
    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Any) -> None:
        """Look for the layers."""
        model = whole_model(runner, self)
        if not any(isinstance(module, MBN) for module in model.modules()):
            raise ValueError(
                'DoubleForwardHook repeats forwards for MBN layers, and the model has '
                "none: remove the hook, or give the model norm_cfg=dict(type='MBN')"
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Repeat the forward, if there was an update."""
        wrapper = runner.optim_wrapper
        if not wrapper.should_update():
            return
        # Not through a wrapper: it would prepare for a backward.
        model = unwrapped(runner)
        with second_forward(model), wrapper.optim_context(model):
            data = model.data_preprocessor(data_batch, True)
            model._run_forward(data, mode='loss')
