"""Unified Batch Normalization (UBN), arXiv 2311.15993.

BatchNorm with four additions, each with its own switch: a gate that keeps a batch of too
dissimilar samples out of the statistics (condensation), a learnt shift by the sample's own
mean (centering), a learnt scale by the sample's own normalised mean (scaling), and a
depthwise k x k kernel in place of the channel weight (affine).

A fresh layer is exactly BatchNorm, and every BatchNorm checkpoint fits it. That takes two
changes of form against the authors' layer, which keep the same functions reachable: the
scaling gate is divided by its initial value, and the kernel is written as BatchNorm's
``weight`` on the centre tap plus a ``spatial_weight`` that starts at zero.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import algebra
from ..ops.dispatch import passes_for
from ..ops.distributed import merge_statistics, sync_group
from ..ops.recompute import is_recomputation
from .checks import check_choice, check_count, check_flag, check_number
from .initial_weight import InitialWeight

CONDENSATION_MOMENTUM = 0.1


class UBN(_BatchNorm):
    """Unified Batch Normalization of a 4D input (arXiv 2311.15993).

    A direct child of ``_BatchNorm``: the toolbox matches initialisers by a layer's own
    and immediate base class names, and weight decay and ``norm_eval`` by isinstance.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        eps: Added to the variance, as in BatchNorm.
        momentum: Step of the running statistics, as in BatchNorm; None for the
            cumulative average over the batches that moved them.
        affine: Whether there is an affine stage: ``weight``, ``bias`` and
            ``spatial_weight``.
        track_running_stats: As in BatchNorm. Without running statistics there is nothing
            to fall back on, hence no gate.
        centering: ``x' = x + centering_weight * GAP(x)``.
        scaling: ``'normalized'`` scales by ``sigmoid(scaling_weight * GAP(xhat) +
            scaling_bias)``, divided by its initial value; None switches the stage off.
        kernel_size: Odd size ``k`` of the depthwise kernel; 1 is BatchNorm's own affine.
        initial_weight: What ``weight`` starts from, also where a toolbox's generic
            initialiser writes 1; an initialiser that writes 0 (``zero_init_residual``)
            has its way.
        initial_spatial: What ``spatial_weight`` starts from: ``'zeros'``, or
            ``'kaiming'``, normal with standard deviation ``sigmoid(1) * sqrt(2/(k*k*C))``.
            With ``initial_weight=0`` the latter is the paper authors' start. No effect
            for ``kernel_size=1``.
        condensation_threshold: In training, batches are normalised with the running
            statistics, and leave them alone, while ``condensation`` is at or below this,
            in [0, 1); None for no gate.
        condensation_feature: What samples are compared by: ``'flat'``, whole maps, or
            ``'pooled'``, their channel means, which costs nothing extra.
        sync: Whether, in training, statistics and condensation are those of the batches
            of all ranks; on one process there is nothing to merge.
        sync_group_size: Merge over this many consecutive ranks; None for all.
        device: Of parameters and buffers.
        dtype: Of parameters and buffers.

    Input and output have the same shape ``(N, C, H, W)``, dtype and memory format;
    statistics are computed in float32 at least.

    Parameters are ``weight``, ``bias``, ``centering_weight``, ``scaling_weight``,
    ``scaling_bias``, ``(C,)`` each, and ``spatial_weight``, ``(C, k, k)``; buffers are
    BatchNorm's and ``condensation``, ``()``, the moving average of the batches' mean
    pairwise cosine. Those of a stage that is off are None.

    Raises:
        TypeError: For an argument of the wrong type or an unknown keyword.
        ValueError: For an argument out of range; in ``forward``, for an input that is
            not 4D, or, in training, one value per channel.
        RuntimeError: In ``forward``, for an input of other than ``num_features``
            channels.
    """

    _abbr_ = 'bn'  # the toolbox then names attributes as BatchNorm checkpoints do

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_count('num_features', num_features)
        check_number('eps', eps, lambda v: 0 <= v < math.inf, 'a finite number >= 0')
        if momentum is not None:
            check_number(
                'momentum', momentum, lambda v: 0 <= v <= 1, 'None or within [0, 1]'
            )
        check_flag('affine', affine)
        check_flag('track_running_stats', track_running_stats)
        check_flag('centering', centering)
        check_choice('scaling', scaling, ('normalized', None))
        check_count('kernel_size', kernel_size, odd=True)
        check_number('initial_weight', initial_weight, math.isfinite, 'a finite number')
        check_choice('initial_spatial', initial_spatial, ('zeros', 'kaiming'))
        if condensation_threshold is not None:
            check_number(
                'condensation_threshold',
                condensation_threshold,
                lambda v: 0 <= v < 1,
                'None or within [0, 1)',
            )
        check_choice('condensation_feature', condensation_feature, algebra.SUMMARIES)
        check_flag('sync', sync)
        if sync_group_size is not None:
            check_count('sync_group_size', sync_group_size)

        factory = {'device': device, 'dtype': dtype}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, **factory
        )
        self.centering = centering
        self.scaling = scaling
        self.kernel_size = kernel_size
        self.initial_weight = initial_weight
        self.initial_spatial = initial_spatial
        self.condensation_threshold = condensation_threshold
        self.condensation_feature = condensation_feature
        self.sync = sync
        self.sync_group_size = sync_group_size

        def add_parameter(name: str, present: bool, *shape: int) -> None:
            data = torch.empty(shape, **factory) if present else None
            self.register_parameter(name, nn.Parameter(data) if present else None)

        k = kernel_size
        add_parameter('centering_weight', centering, num_features)
        add_parameter('scaling_weight', scaling is not None, num_features)
        add_parameter('scaling_bias', scaling is not None, num_features)
        add_parameter('spatial_weight', affine and k > 1, num_features, k, k)
        gated = condensation_threshold is not None and track_running_stats
        self.register_buffer(
            'condensation', torch.empty((), **factory) if gated else None
        )
        if affine and initial_weight != 1:
            self.weight = InitialWeight(self.weight.data, start=initial_weight)
        self.reset_parameters()

    # BatchNorm's constructor calls the two resets before there is anything of ours.

    def reset_running_stats(self) -> None:
        """Forget all statistics: BatchNorm's, and the condensation."""
        super().reset_running_stats()
        if self._buffers.get('condensation') is not None:
            self.condensation.fill_(1)

    def reset_parameters(self) -> None:
        """Start anew, as after construction."""
        super().reset_parameters()
        if 'spatial_weight' not in self._parameters:
            return
        if self.centering_weight is not None:
            nn.init.zeros_(self.centering_weight)
        if self.scaling_weight is not None:
            nn.init.zeros_(self.scaling_weight)
            nn.init.constant_(self.scaling_bias, algebra.INITIAL_SCALING_BIAS)
        if self.spatial_weight is None:
            return
        if self.initial_spatial == 'zeros':
            nn.init.zeros_(self.spatial_weight)
        else:
            # The authors' depthwise kernel meets the generic initialiser
            # (kaiming_normal_, fan_out) behind a gate that starts at sigmoid(1).
            fan_out = self.kernel_size**2 * self.num_features
            std = algebra.INITIAL_GATE * math.sqrt(2 / fan_out)
            nn.init.normal_(self.spatial_weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape ``(N, C, H, W)``; the class docstring says how.

        An empty ``x`` gives an empty tensor that still depends on every parameter, and
        leaves the statistics alone.
        """
        self._check_input_dim(x)
        InitialWeight.settle(self.weight)
        group = sync_group(self.sync_group_size) if self._merges else None
        if group is None:
            if x.numel() == 0:
                return x + 0 * sum(parameter.sum() for parameter in self.parameters())
            if self.training and x.numel() == self.num_features:
                raise ValueError(
                    'expected more than 1 value per channel when training, '
                    f'got input size {tuple(x.shape)}'
                )
        # Under autocast the convolution and the products would lose the precision that
        # the statistics are computed in.
        with _full_precision(x.device.type):
            passes = passes_for(x)
            if self.training or self.running_mean is None:
                moments = passes.moments(x)
                mean, var = self._batch_statistics(moments, group)
            else:
                needs_mean = self.centering or self.scaling is not None
                moments = passes.spatial_mean(x) if needs_mean else algebra.Moments(x)
                mean, var = self._running_statistics(x)
            return self._normalize(passes, moments, mean, var)

    @property
    def _merges(self) -> bool:
        """Only ranks in training take part in collectives, as in SyncBatchNorm."""
        return self.training and self.sync

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() != 4:
            raise ValueError(f'expected 4D input (got {x.dim()}D input)')
        if x.shape[1] != self.num_features:
            raise RuntimeError(
                f'expected input with {self.num_features} channels, '
                f'got {x.shape[1]}: {tuple(x.shape)}'
            )

    def _running_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = algebra.compute_dtype(x)
        return self.running_mean.to(dtype), self.running_var.to(dtype)

    def _batch_statistics(
        self, moments: algebra.Moments, group: ProcessGroup | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalise with when the batch's own are wanted.

        In training this moves the condensation and, where the gate is open, the running
        statistics. The gate stays a tensor: reading it back would make the host wait for
        the device in every layer.
        """
        centering = 1 if self.centering_weight is None else 1 + self.centering_weight
        mean, var = algebra.batch_statistics(moments.mean, moments.var, centering)
        count = moments.x.numel() // self.num_features
        summary = self._summary(moments)
        is_open = None
        if group is not None:
            mean, var, count, summary = merge_statistics(
                mean, var, count, summary, group
            )
            is_open = count > 0  # no rank may have had anything
        if not self.training or self.running_mean is None:
            return mean, var
        moves = not is_recomputation()
        with torch.no_grad():
            if self.condensation is not None:
                if moves:
                    self._move_condensation(summary, is_open)
                similar = self.condensation > self.condensation_threshold
                is_open = similar if is_open is None else is_open & similar
            if moves:
                unbiased_var = var * (count / (count - 1))
                self._move_running_statistics(mean, unbiased_var, is_open)
        if is_open is None:
            return mean, var
        running_mean, running_var = self._running_statistics(moments.x)
        return (
            torch.where(is_open, mean, running_mean),
            torch.where(is_open, var, running_var),
        )

    def _summary(self, moments: algebra.Moments) -> Tensor:
        """What the condensation follows from; sums up over ranks."""
        if self.condensation is None or not self.training:
            return moments.mean.new_empty(0)
        return algebra.SUMMARIES[self.condensation_feature](moments)

    def _move_condensation(self, summary: Tensor, moves: Tensor | None) -> None:
        c = algebra.CONDENSATIONS[self.condensation_feature](summary)
        _move(self.condensation, c, CONDENSATION_MOMENTUM, moves)

    def _move_running_statistics(
        self, mean: Tensor, unbiased_var: Tensor, is_open: Tensor | None
    ) -> None:
        self.num_batches_tracked.add_(1 if is_open is None else is_open)
        step = self.momentum
        if step is None:  # the cumulative average
            tracked = self.num_batches_tracked.clamp(min=1)
            step = tracked.to(self.running_mean.dtype).reciprocal()
        _move(self.running_mean, mean, step, is_open)
        _move(self.running_var, unbiased_var, step, is_open)

    def _normalize(
        self, passes: ModuleType, moments: algebra.Moments, mean: Tensor, var: Tensor
    ) -> Tensor:
        """Centering, normalisation, scaling and affine, as coefficients of one apply.

        ``xhat = inv_std * (x - K) + GAP(xhat)``, and ``GAP(xhat)`` needs no pass.
        """
        scale = torch.rsqrt(var + self.eps)
        if moments.mean is None:
            pivot, shift = mean, torch.zeros_like(mean)
        else:
            pivot, shift = moments.mean, scale * (self._centre(moments.mean) - mean)
        gate = None
        if self.scaling_weight is not None:
            gate = algebra.scaling_gate(shift, self.scaling_weight, self.scaling_bias)

        def gated(coefficient: Tensor) -> Tensor:
            return coefficient if gate is None else gate * coefficient

        if self.weight is None:
            return passes.apply_pointwise(moments, pivot, gated(scale), gated(shift))
        if self.spatial_weight is None:
            scale, shift = self.weight * scale, self.weight * shift + self.bias
            return passes.apply_pointwise(moments, pivot, gated(scale), gated(shift))
        # The gate is one number a map: it may as well act before the convolution.
        kernel = algebra.spatial_kernel(self.weight, self.spatial_weight)
        return passes.apply_depthwise(
            moments, pivot, gated(scale), gated(shift), kernel, gated(self.bias)
        )

    def _centre(self, mean: Tensor) -> Tensor:
        """``(1 + w_m) * mean``: what centering makes of a mean."""
        if self.centering_weight is None:
            return mean
        return mean + self.centering_weight * mean

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Take a BatchNorm's state as what it is: a UBN whose stages do nothing yet."""
        own = {
            'centering_weight': 0.0,
            'scaling_weight': 0.0,
            'scaling_bias': algebra.INITIAL_SCALING_BIAS,
            'spatial_weight': 0.0,
            'condensation': 1.0,
        }
        present = self._parameters | self._buffers
        holds = {name for name in present if prefix + name in state_dict}
        if holds & {'weight', 'running_mean'} and not holds & own.keys():
            for name, neutral in own.items():
                if present[name] is not None:
                    value = torch.full_like(present[name], neutral)
                    state_dict[prefix + name] = value.detach()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """BatchNorm's, and the stages."""
        return (
            f'{super().extra_repr()}, centering={self.centering}, '
            f'scaling={self.scaling!r}, kernel_size={self.kernel_size}, '
            f'condensation_threshold={self.condensation_threshold}, '
            f'condensation_feature={self.condensation_feature!r}'
        )


def _move(
    average: Tensor, value: Tensor, step: Tensor | float, moves: Tensor | None
) -> None:
    """Move a running average in place, if it ``moves`` and where ``value`` is finite.

    One batch with inf or nan in it must not spoil the average for good.
    """
    moved = torch.lerp(average, value.to(average.dtype), step)
    finite = torch.isfinite(moved)
    average.copy_(
        torch.where(finite if moves is None else finite & moves, moved, average)
    )


def _full_precision(device_type: str) -> AbstractContextManager:
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(
        device_type
    ):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
