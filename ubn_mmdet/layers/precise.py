"""Running statistics that are averages over batches which the same weights have seen."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

RUNNING = 'running_mean', 'running_var'


@torch.no_grad()
def precise_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], object] | None = None,
) -> None:
    """Put plain averages over ``batches`` in place of a model's moving averages.

    A moving average is over the last ``1/momentum`` steps or so, each of other weights; of
    few images per step it is rough. These are the "precise" statistics of arXiv 2105.07576,
    section 3, for BatchNorm and the members of the family: the mean of the batches' means
    and that of their unbiased variances, as with ``momentum=None``. Batches that would not
    move the moving averages do not count; if none does, they stay as they are.

    Nothing else changes: modes, ``momentum``, ``num_batches_tracked`` and what the layers
    remember beside are in the end what they were. If a batch raises an error, so are the
    moving averages.

    Args:
        model: Norm layers that ``model.train()`` leaves in evaluation, as ``norm_eval``
            does, keep their statistics.
        batches: Best as large as memory allows, and of training images: a batch counts as
            one, whatever its size.
        forward: Takes a batch, and calls the model as training does; the model itself if
            None.

    Raises:
        ValueError: If no norm layer's statistics would move, or there is no batch.
    """
    with kept_modes(model):
        norms = moving_norms(model.train()).values()
        memory = {norm: _memory(norm) for norm in norms}
        averaged: tuple[str, ...] = ()
        try:
            for norm in norms:
                norm.momentum = None
                if hasattr(norm, 'condensation_min_updates'):
                    left = norm.condensation_min_updates - int(norm.num_batches_tracked)
                    norm.condensation_min_updates = max(0, left)
                for buffer in norm.buffers(recurse=False):
                    if not buffer.is_floating_point():  # a counter of batches
                        buffer.zero_()  # the first batch replaces what there is
            count = 0
            for batch in batches:
                (forward or model)(batch)
                count += 1
            if not count:
                raise ValueError('there is no batch to take statistics of')
            averaged = RUNNING
        finally:
            for norm, (settings, buffers) in memory.items():
                for name, setting in settings.items():
                    setattr(norm, name, setting)
                for name, value in buffers.items():
                    if name not in averaged:
                        norm.get_buffer(name).copy_(value)


def moving_norms(model: nn.Module) -> dict[str, Any]:
    """The norm layers whose running statistics move in the model's mode, by name.

    Raises:
        ValueError: If there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training
        if module.track_running_stats and module.running_mean is not None
    }
    if not found:
        raise ValueError(
            'the model has no norm layer whose statistics move in training: none with '
            'running statistics, or all are in evaluation (norm_eval, frozen_stages)'
        )
    return found


@contextlib.contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into the mode, training or evaluation, that it has now."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _memory(norm: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is to be put back: settings and buffers."""
    names = 'momentum', 'condensation_min_updates'
    buffers = norm.named_buffers(recurse=False)
    return (
        {name: getattr(norm, name) for name in names if hasattr(norm, name)},
        {k: v.clone() for k, v in buffers},
    )
