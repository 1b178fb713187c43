"""Memorized Batch Normalization (MBN), AAAI 2018, arXiv 2010.04947."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.recompute import is_in_backward
from .checks import check_tracks
from .pipeline import PipelineNorm, Stages
from .stages import MemorizedStatistics


class MBN(PipelineNorm, _BatchNorm):
    """Memorized Batch Normalization: statistics of the last batches (AAAI 2018).

    ``y = weight * (x - mu) / sqrt(var + eps) + bias``, with mean and variance over the
    elements of the last ``memory_size`` batches, the present one included. A batch weighs
    ``decay**age``. The gradient goes through the present batch alone. In evaluation the
    same statistics are used, those of the memory.

    A batch's statistics are of the weights that it has met. So after each update it goes
    forward a second time, and what is memorized of it is replaced: within
    :func:`second_forward`, or by ``DoubleForwardHook`` in the toolbox. Training without
    that is warned of.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        memory_size: Batches that are remembered.
        decay: Of their weights, in (0, 1]; 1 for equal ones.
        **common: ``eps``, ``momentum``, ``affine``, ``sync``, ``sync_group_size``,
            ``device`` and ``dtype``, as in :class:`PipelineNorm`. ``momentum`` has no
            effect unless it is None: evaluation then goes by the average over all batches.
            ``track_running_stats=False`` is refused.

    Parameters are ``weight`` and ``bias``, ``(C,)`` each. Buffers are BatchNorm's, and
    ``mean_memory`` and ``var_memory``, ``(C, memory_size)``, and ``batches_memorized``,
    ``()``. A BatchNorm checkpoint evaluates as that BatchNorm; training forgets its running
    statistics with the first batch.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    stages: Stages[MemorizedStatistics]

    def __init__(
        self,
        num_features: int,
        memory_size: int = 10,
        decay: float = 0.9,
        **common: Any,
    ) -> None:
        check_tracks(common)
        self.is_second_forward = False
        self._awaits_second_forward = False
        statistics = MemorizedStatistics(memory_size, decay)
        super().__init__(num_features, Stages(statistics=statistics), **common)

    def forward(self, x: Any) -> Any:
        """Normalise ``x`` of shape ``(N, C, H, W)``, as :class:`PipelineNorm` does."""
        if self.training and not torch.compiler.is_compiling():
            self._note_forward()
        return super().forward(x)

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

    def extra_repr(self) -> str:
        """BatchNorm's, and the memory."""
        statistics = self.stages.statistics
        return (
            f'{super().extra_repr()}, memory_size={statistics.memory_size}, '
            f'decay={statistics.decay}'
        )


@contextlib.contextmanager
def second_forward(model: nn.Module) -> Iterator[None]:
    """Within it a forward replaces what :class:`MBN` layers have memorized of the last one.

    For the same batch, in training mode, after the update that it has led to. There is no
    gradient within it, and other norm layers normalise by the batch and keep their running
    statistics as they are.

    Args:
        model: With the layers.
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    memories = [norm for norm in norms if isinstance(norm, MBN)]
    others = [norm for norm in norms if not isinstance(norm, MBN)]
    tracks = [norm.track_running_stats for norm in others]
    try:
        for norm in memories:
            norm.is_second_forward = True
        for norm in others:
            norm.track_running_stats = False
        with torch.no_grad():
            yield
    finally:
        for norm in memories:
            norm.is_second_forward = False
        for norm, track in zip(others, tracks, strict=True):
            norm.track_running_stats = track
