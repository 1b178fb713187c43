"""Unified Batch Normalization (UBN), arXiv 2311.15993.

A fresh layer is exactly BatchNorm, and every BatchNorm checkpoint fits it. That takes two
changes of form against the authors' layer, which keep the same functions reachable: the
scaling gate is divided by its initial value, and the kernel is BatchNorm's ``weight`` at
the centre and a ``spatial_weight`` around it that starts at zero. To train as the authors'
layer does, it takes other learning rates: ``UBNOptimWrapperConstructor`` has them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_choice, check_count, check_flag
from .pipeline import PipelineNorm, Stages
from .stages.affine import (
    STARTS,
    Centering,
    ChannelAffine,
    DepthwiseAffine,
    NormalizedScaling,
)
from .stages.statistics import GatedStatistics

# What a layer with every stage on has; a stage that is off leaves None in its place.
ALL_ENTRIES = Stages(
    Centering(), GatedStatistics(), NormalizedScaling(), DepthwiseAffine()
).entries()


def _of_gate(name: str) -> Any:
    """A property of UBN that is a setting of its gate."""

    def get(layer: 'UBN') -> Any:
        return getattr(layer.stages.statistics, name)

    def change(layer: 'UBN', value: Any) -> None:
        before = layer.stages.statistics
        gate = replace(before, **{name: value})
        if (gate.threshold is None) != (before.threshold is None):
            raise ValueError(
                f'condensation_threshold was {before.threshold} and cannot become '
                f'{gate.threshold}: a layer is built with a gate or without one'
            )
        layer.stages = replace(layer.stages, statistics=gate)

    return property(get, change)


class UBN(PipelineNorm, _BatchNorm):
    """Unified Batch Normalization of a 4D input (arXiv 2311.15993).

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        eps: As in :class:`PipelineNorm`, as ``momentum``, ``sync_group_size``, ``device``
            and ``dtype``.
        affine: Whether there is an affine stage: ``weight``, ``bias`` and
            ``spatial_weight``.
        track_running_stats: As in BatchNorm. Without running statistics there is nothing
            to fall back on, hence no gate.
        centering: ``x' = x + centering_weight * GAP(x)``.
        scaling: ``'normalized'`` scales by ``sigmoid(scaling_weight * GAP(xhat) +
            scaling_bias)``, divided by its initial value; None switches the stage off.
        kernel_size: Odd size ``k`` of the depthwise kernel; 1 is BatchNorm's own affine.
        initial_weight: What ``weight``, the centre tap, starts from, also where a
            toolbox's generic initialiser writes 1. Other values are taken as they are,
            such as the 0 of ``zero_init_residual``.
        initial_spatial: What is added to every tap at the start: nothing (``'zeros'``), or
            a normal part with standard deviation ``sigmoid(1) * sqrt(2/(k*k*C))``
            (``'kaiming'``) or ``1/k``, which keeps the variance (``'fan_in'``).
            With ``initial_weight=0``, ``'kaiming'`` is the paper's initialisation. No
            effect for ``kernel_size=1``.
        condensation_threshold: In training, batches are normalised with the running
            statistics, and leave them alone, while ``condensation`` is at or below this,
            in [0, 1); None for no gate.
        condensation_feature: What samples are compared by: ``'flat'``, whole maps, or
            ``'pooled'``, their channel means, which costs nothing extra.
        sync: Whether, in training, statistics and condensation are those of the batches
            of all ranks; on one process there is nothing to merge.
        condensation_opens: ``'similar'``, or ``'dissimilar'`` for the reversed gate: batch
            statistics while ``condensation`` is at or below the threshold. For
            comparison; such a layer does not start as BatchNorm.
        condensation_min_updates: How often the running statistics have to be moved before
            the gate may close. In the paper, 0: they may stand still before they settle.

    Parameters are ``weight``, ``bias``, ``centering_weight``, ``scaling_weight``,
    ``scaling_bias``, ``(C,)`` each, and ``spatial_weight``, ``(C, k, k)``, whose centre
    stays zero; buffers are BatchNorm's and ``condensation``, ``()``, the moving average of
    the batches' mean pairwise cosine. Those of a stage that is off are None.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        centering: bool = True,
        scaling: str | None = 'normalized',
        kernel_size: int = 3,
        initial_weight: float = 1.0,
        initial_spatial: str = 'zeros',
        condensation_threshold: float | None = 0.15,
        condensation_feature: str = 'flat',
        sync: bool = True,
        sync_group_size: int | None = None,
        condensation_opens: str = 'similar',
        condensation_min_updates: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_flag('centering', centering)
        check_choice('scaling', scaling, ('normalized', None))
        check_count('kernel_size', kernel_size, odd=True)
        check_choice('initial_spatial', initial_spatial, STARTS)
        affine_stage = ChannelAffine(initial_weight)
        if kernel_size > 1:
            affine_stage = DepthwiseAffine(
                initial_weight, kernel_size=kernel_size, initial_spatial=initial_spatial
            )
        self.scaling = scaling
        self.initial_spatial = initial_spatial
        gate = GatedStatistics(
            condensation_threshold,
            condensation_feature,
            condensation_opens,
            condensation_min_updates,
        )
        stages = Stages(
            Centering() if centering else None,
            gate,
            NormalizedScaling() if scaling else None,
            affine_stage,
        )
        common = eps, momentum, affine, track_running_stats, sync, sync_group_size
        super().__init__(num_features, stages, *common, device, dtype)
        for entry in ALL_ENTRIES:
            if entry.is_parameter and entry.name not in self._parameters:
                self.register_parameter(entry.name, None)
            elif not entry.is_parameter and entry.name not in self._buffers:
                self.register_buffer(entry.name, None)

    condensation_threshold = _of_gate('threshold')
    condensation_feature = _of_gate('feature')
    condensation_opens = _of_gate('opens')
    condensation_min_updates = _of_gate('min_updates')

    @property
    def gate_is_open(self) -> Tensor | None:
        """Whether the next step may move the running statistics, ``()`` bool.

        It may as long as its batch does not move ``condensation`` across the threshold.
        None for a layer that has no gate.
        """
        gate = self.stages.statistics
        return gate.is_open(self) if gate.is_on(self) else None
