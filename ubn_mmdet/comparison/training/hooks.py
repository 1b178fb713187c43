"""What a run of a comparison does besides training."""

import math
import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..results import read_scalars


class DivergedError(RuntimeError):
    """The loss is no finite number."""


class ReseedHook(Hook):
    """Sets the random state from the seed, the epoch and, for PyTorch, the step.

    Runs of different norms then augment alike, and draw alike as far as their
    proposals allow; a resumed run draws what it would have drawn uninterrupted.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Augmentation draws from this, or from what a worker's state is drawn from it."""
        state = self._state('epoch', runner.epoch)
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """What one step draws does not shift what the next one draws."""
        torch.manual_seed(self._state('step', runner.iter))

    def _state(self, kind: str, number: int) -> int:
        words = [self._seed, get_rank(), kind == 'step', number]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


class CatchUpHook(Hook):
    """Makes up for an evaluation that an interruption has lost.

    The toolbox writes an epoch's checkpoint before it evaluates, and resumes with the next
    epoch.
    """

    def before_train(self, runner: Runner) -> None:
        """Evaluate what was resumed from if that is due and not in the logs."""
        loop, epoch = runner.train_loop, runner.epoch
        is_due = epoch == loop.max_epochs or epoch % loop.val_interval == 0
        _, evaluations = read_scalars(runner.work_dir)
        if epoch >= loop.val_begin and is_due and epoch not in evaluations:
            runner.val_loop.run()


class NothingFoundHook(Hook):
    """Gives an evaluation without any detection the AP that the toolbox leaves out: 0.

    It has to run before all other hooks, which note the metrics.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add what is missing."""
        assert metrics is not None
        kinds = runner.cfg.val_evaluator.metric  # 'bbox', 'segm' or both
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            metrics.setdefault(f'coco/{kind}_mAP', 0.0)


class FiniteLossHook(Hook):
    """Ends a run whose loss is not finite."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Look at the loss, which the toolbox has read from the device already.

        Raises:
            DivergedError: On all ranks, if it is not finite on one of them.
        """
        loss = runner.message_hub.get_scalar('train/loss').current()
        finite = torch.tensor(float(math.isfinite(loss)))
        all_reduce(finite, op='min')
        if not finite:
            what = f'the loss is {loss}'
            if math.isfinite(loss):
                what = "another process's loss is not finite"
            raise DivergedError(
                f'{what} in step {runner.iter + 1} (epoch {runner.epoch + 1})'
            )


def keep_worker_seed(worker_id: int, **_: object) -> None:
    """For ``worker_init_fn``: leaves a worker that loads data its random state.

    PyTorch draws it from the state of the process, which :class:`ReseedHook` sets by seed,
    epoch and rank, and from the number of the worker. The toolbox's own function would give
    it the same state in every epoch.
    """
