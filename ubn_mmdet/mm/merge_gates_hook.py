"""The hook that keeps the gates of all ranks alike where statistics are not merged."""

from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner, Runner

from .condensation import has_gate
from .guard_hook import unmerged
from .members import unwrapped


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

    def before_train(self, runner: Runner | FlexibleRunner) -> None:
        """Find the layers."""
        self._layers = [m for m in unwrapped(runner).modules() if has_gate(m)]

    def after_train_iter(
        self, runner: Runner | FlexibleRunner, *args: Any, **kwargs: Any
    ) -> None:
        """Average."""
        own = [m.condensation for m in unmerged(self._layers, get_world_size())]
        if not own:
            return
        merged = torch.stack(own)
        all_reduce(merged, op='mean')
        for condensation, value in zip(own, merged, strict=True):
            condensation.copy_(value)
