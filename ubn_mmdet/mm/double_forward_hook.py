"""The second forward that Memorized Batch Normalization wants after each update."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..layers import MBN, second_forward
from .members import unwrapped


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

    def before_train(self, runner: Runner) -> None:
        """Look for the layers."""
        if not any(isinstance(module, MBN) for module in runner.model.modules()):
            raise ValueError(
                'DoubleForwardHook repeats forwards for MBN layers, and the model has '
                "none: remove the hook, or give the model norm_cfg=dict(type='MBN')"
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Repeat the forward, if there was an update."""
        wrapper = runner.optim_wrapper
        if not wrapper.should_update():
            return
        # Not through a wrapper: it would prepare for a backward.
        model = unwrapped(runner)
        with second_forward(model), wrapper.optim_context(model):
            data = model.data_preprocessor(data_batch, True)
            if isinstance(data, dict):
                model(**data, mode='loss')
            else:
                model(*data, mode='loss')
