"""Hooks that some norms want in training: a second forward, or ranks that agree."""

from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..layers import MBN, second_forward
from .condensation import has_gate
from .guard_hook import unmerged
from .members import unwrapped


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
        ValueError: At the start of training, if the model has no ``MBN``.
    """

    # After the hooks that follow the step itself, and before a checkpoint is saved.
    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Any) -> None:
        """Look for the layers."""
        if not any(isinstance(module, MBN) for module in runner.model.modules()):
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
