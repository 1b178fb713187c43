"""Memorized Batch Normalization (MBN), AAAI 2018, arXiv 2010.04947."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.recompute import is_in_backward
from .checks import check_count, check_number
from .pipeline import PipelineNorm, Stages
from .stages.stage import Entry, Layer
from .stages.statistics import (
    Batch,
    BatchStatistics,
    State,
    count_batch,
    may_update,
    mean_and_inv_std,
    memory_entries,
    move_mean_and_var,
    overwrite,
    unbiased,
)


class MBN(PipelineNorm, _BatchNorm):
    """Memorized Batch Normalization: statistics of the last batches (AAAI 2018).

    ``y = weight * (x - mu) / sqrt(var + eps) + bias``, with mean and variance over the
    elements of the last ``memory_size`` batches, the present one included. A batch weighs
    ``decay**age``. The gradient goes through the present batch alone. In evaluation the
    same statistics are used, those of the memory.

    A batch's statistics are of the weights that it has met. So after each update it goes
    forward a second time, and what is memorized of it is replaced: within
    :func:`second_forward`, or by ``DoubleForwardHook`` in the toolbox. Training without
    that is warned of (but not within reentrant activation checkpointing, whose first
    forward runs without gradients).

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        memory_size: Batches that are remembered.
        decay: Of their weights, in (0, 1]; 1 for equal ones.
        **common: As in :class:`PipelineNorm`, as are input, output and errors.
            ``momentum`` has no effect unless it is None: evaluation then goes by the
            average over all batches. ``track_running_stats=False`` is refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``mean_memory`` and ``var_memory``, ``(C, memory_size)``, and ``batches_memorized``,
    ``()``. A BatchNorm checkpoint evaluates as that BatchNorm; training forgets its running
    statistics with the first batch.
    """

    def __init__(
        self,
        num_features: int,
        memory_size: int = 10,
        decay: float = 0.9,
        **common: Any,
    ) -> None:
        self.is_second_forward = False
        self._awaits_second_forward = False
        stages = Stages(statistics=MemorizedStatistics(memory_size, decay))
        super().__init__(num_features, stages, **common)

    def forward(self, input: Any) -> Any:
        """Normalise ``input`` of shape ``(N, C, H, W)``, as :class:`PipelineNorm` does."""
        if self.training and not torch.compiler.is_compiling():
            self._note_forward()
        return super().forward(input)

    def _note_forward(self) -> None:
        if self.is_second_forward:
            self._awaits_second_forward = False
        elif torch.is_grad_enabled() and not is_in_backward():
            if self._awaits_second_forward:
                # One text, and one place: Python shows it once.
                warnings.warn(
                    'MBN has met two batches in training without a second forward after '
                    'the first: what it has memorized is of weights that have changed. '
                    "Add custom_hooks=[dict(type='DoubleForwardHook')] to the config, or "
                    'repeat the forward within ubn_mmdet.second_forward(model) after '
                    'each update',
                    stacklevel=3,
                )
            self._awaits_second_forward = True


@contextlib.contextmanager
def second_forward(model: nn.Module) -> Iterator[None]:
    """Within it a forward replaces what :class:`MBN` layers have memorized of the last one.

    For the same batch, in training mode, after the update that it has led to. There is no
    gradient within it, and other norm layers normalise by the batch and keep their running
    statistics as they are.

    Args:
        model: With the layers.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    tracks = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            if isinstance(norm, MBN):
                norm.is_second_forward = True
            else:
                norm.track_running_stats = False
        with torch.no_grad():
            yield
    finally:
        for norm, track in zip(norms, tracks, strict=True):
            norm.track_running_stats = track
            if isinstance(norm, MBN):
                norm.is_second_forward = False


@dataclass(eq=False)
class MemorizedStatistics(BatchStatistics):
    """Mean and variance over the last batches, the present one included.

    While ``layer.is_second_forward``, the batch takes the place of the last one in the
    memory: it is the same, of other weights.
    """

    needs_tracking = True

    memory_size: int
    decay: float

    def __post_init__(self) -> None:
        check_count('memory_size', self.memory_size)
        check_number('decay', self.decay, lambda v: 0 < v <= 1, 'within (0, 1]')

    def entries(self) -> tuple[Entry, ...]:
        """The memories, ``(C, m)`` each, and what counts them, ``()``."""
        return memory_entries(self.memory_size, 'mean_memory', 'var_memory')

    def advance(self, layer: Layer, batch: Batch) -> State:
        """Memorize the batch, and make the running statistics those of the memory.

        Returns:
            The weight of the batch in all of them, ``()``; mean and biased variance of the
            others, ``(C,)`` each.
        """
        var = unbiased(batch)
        is_valid = may_update(batch, var)
        count = layer.batches_memorized
        if not layer.is_second_forward:
            count.add_(is_valid)
        slots = torch.arange(self.memory_size, device=count.device)
        ages = (count - 1 - slots) % self.memory_size
        is_here = (ages == 0) & (count > 0) & is_valid
        overwrite(layer.mean_memory, batch.mean[:, None], is_here)
        overwrite(layer.var_memory, batch.var[:, None], is_here)
        state = self._others(layer, ages, batch.mean.dtype)
        if layer.momentum is None:
            if not layer.is_second_forward:
                move_mean_and_var(layer, batch.mean, var, is_valid)
            return state
        if not layer.is_second_forward:
            count_batch(layer, is_valid)
        mean, var = _with_others(batch, state)
        overwrite(layer.running_mean, mean, is_valid)
        overwrite(layer.running_var, var, is_valid)
        return state

    def normalizer(
        self, layer: Layer, batch: Batch, state: State | None
    ) -> tuple[Tensor, Tensor]:
        """The statistics of the batch and of those in the memory, as of one batch."""
        if state is None:
            return super().normalizer(layer, batch, state)
        return mean_and_inv_std(layer, *_with_others(batch, state))

    def _others(self, layer: Layer, ages: Tensor, dtype: torch.dtype) -> State:
        """What :meth:`advance` returns, of a memory of these ``ages``, ``(m,)``."""
        weights = (ages > 0) & (ages < layer.batches_memorized)
        weights = weights * torch.pow(self.decay, ages.to(dtype))
        total = weights.sum()
        weights = weights / torch.where(total > 0, total, 1)
        means, variances = layer.mean_memory.to(dtype), layer.var_memory.to(dtype)
        mean = (weights * means).sum(dim=1)
        spread = (means - mean.unsqueeze(1)).square()
        return 1 / (1 + total), mean, (weights * (variances + spread)).sum(dim=1)


def _with_others(batch: Batch, state: State) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of a batch with the others that ``state`` knows of."""
    share, mean, var = state
    distance = batch.mean - mean
    between = share * (1 - share) * distance.square()
    return mean + share * distance, var + share * (batch.var - var) + between
