"""Lets every rank evaluate what the checkpoint holds."""

from typing import Any

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


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
