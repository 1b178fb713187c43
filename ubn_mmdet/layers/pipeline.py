"""The pipeline that UBN and its relatives share: stages around BatchNorm's state.

A *map* is one channel of one sample. Before the kernel, each layer computes
``scale * x + shift`` of every map, and both follow from the means and variances of the
maps (docs/how-it-works.md). So a layer is a choice of stages on ``(N, C)`` tensors between
two passes over ``x``, a reduction and an apply (``ops/passes.py``). The default gate of UBN
reads ``x`` once more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.padding import PaddedPasses, ValidPart, valid_part
from ..ops.passes import Coefficients, Passes, passes_for
from ..ops.recompute import Calls
from ..ops.statistics import sync_group
from ..ops.tensors import compute_dtype, full_precision, is_empty
from .checks import check_count, check_dtype, check_flag, check_number
from .stages.affine import Centering, ChannelAffine, L2Equalizing, NormalizedScaling
from .stages.stage import Entry, Stage
from .stages.statistics import BatchStatistics, whole_batch

BATCHNORM = 'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'


@dataclass(frozen=True)
class Stages:
    """What a layer consists of; the default is BatchNorm.

    Attributes:
        centering: Shifts the input by its own mean; None for not at all.
        statistics: Mean and standard deviation to normalise with, and their averages: a
            :class:`~.stages.statistics.BatchStatistics`.
        scaling: A gate by the input's own mean; None for no gate.
        affine: Turns the coefficients of ``xhat`` into those of the output.
        equalizing: Scales each sample by a factor of its own, before all else; None for
            not at all.
    """

    centering: Centering | None = None
    statistics: Any = BatchStatistics()
    scaling: NormalizedScaling | None = None
    affine: ChannelAffine = ChannelAffine()
    equalizing: L2Equalizing | None = None

    def __iter__(self) -> Iterator[Stage]:
        """Those that there are, in the order of the computation."""
        before = self.equalizing, self.centering
        stages = *before, self.statistics, self.scaling, self.affine
        return (stage for stage in stages if stage is not None)

    def entries(self) -> list[Entry]:
        """The tensors that the stages want, beside BatchNorm's."""
        return [entry for stage in self for entry in stage.entries()]

    @property
    def by_sample(self) -> bool:
        """Whether what is done with a sample depends on its own means."""
        of_samples = self.equalizing, self.centering, self.scaling
        return any(stage is not None for stage in of_samples)

    def as_batchnorm(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A layer's state as that of the BatchNorm that it is in evaluation.

        A kernel that has neighbours stays, in ``spatial_weight``. Stages without tensors
        in ``state`` are treated as switched off.

        Args:
            state: Of one layer, by the names of its tensors; all of BatchNorm's are there.

        Raises:
            ValueError: If the layer depends on its input in a way that BatchNorm does not.
        """
        state = dict(state)
        for stage in reversed(list(self)):
            names = [entry.name for entry in stage.entries()]
            if not names or any(name in state for name in names):
                stage.merge_into_batchnorm(state, self.affine.bias_is_scaled)
        return state


if TYPE_CHECKING:
    Base = _BatchNorm  # what the mix-in may take for granted
else:
    Base = object


class PipelineNorm(Base):
    """A norm layer made of :class:`Stages`: a mix-in beside ``_BatchNorm``.

    ``class RBN(PipelineNorm, _BatchNorm)``: the toolbox matches initialisers by the names
    of a layer's class and immediate bases, and weight decay and ``norm_eval`` by
    isinstance. A grandchild of ``_BatchNorm`` would be skipped.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        stages: What the layer consists of.
        eps: Added to the variance.
        momentum: Step of the running statistics; None for the cumulative average over
            the batches that moved them.
        affine: Whether there is an affine stage: ``weight``, ``bias`` and what the stage
            adds.
        track_running_stats: As in BatchNorm.
        sync: Whether, in training, statistics are those of the batches of all ranks; on
            one process there is nothing to merge.
        sync_group_size: Merge over this many consecutive ranks; None for all.
        device: Of parameters and buffers.
        dtype: Of parameters and buffers.

    Input and output have the same shape ``(N, C, H, W)``, dtype and memory format;
    statistics are computed in float32 at least. In training, a batch whose statistics are
    not finite leaves the running statistics as they are.

    Raises:
        TypeError: For an argument of the wrong type or an unknown keyword; in
            ``forward``, for an input that is no dense tensor of a real floating-point
            dtype of 16 bits or more.
        ValueError: For an argument out of range; in ``forward``, for an input that is
            not 4D, or for one value per channel where statistics are the batch's.
        RuntimeError: In ``forward``, for an input of other than ``num_features``
            channels.
    """

    _version = 3  # BatchNorm's is 2; since 3 the centre of a kernel is ``weight`` alone
    _abbr_ = 'bn'  # the toolbox then names attributes as BatchNorm checkpoints do

    # The names of children that are applied to the result, in this order: the activation
    # of a layer that was converted from a BatchNorm with one (convert.py).
    applied_after: tuple[str, ...] = ()

    def __init__(
        self,
        num_features: int,
        stages: Stages,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        sync: bool = True,
        sync_group_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_count('num_features', num_features)
        check_number('eps', eps, lambda v: 0 < v < math.inf, 'a finite number > 0')
        if momentum is not None:
            check_number(
                'momentum', momentum, lambda v: 0 <= v <= 1, 'None or within [0, 1]'
            )
        check_flag('affine', affine)
        check_flag('track_running_stats', track_running_stats)
        if stages.statistics.needs_tracking and not track_running_stats:
            raise ValueError(
                'track_running_stats must be True, got False: training normalises with '
                'the running statistics'
            )
        check_flag('sync', sync)
        if sync_group_size is not None:
            check_count('sync_group_size', sync_group_size)
        check_dtype(dtype)
        self.stages = stages
        self._calls = Calls()
        of_batchnorm = num_features, eps, momentum, affine, track_running_stats
        super().__init__(*of_batchnorm, device=device, dtype=dtype)
        self.sync = sync
        self.sync_group_size = sync_group_size
        absent = () if affine else stages.affine.entries()
        if not track_running_stats:
            absent += stages.statistics.entries()
        for entry in stages.entries():
            tensor = None
            if entry not in absent:
                tensor = torch.empty(
                    entry.shape(num_features), device=device, dtype=entry.dtype or dtype
                )
            if entry.is_parameter:
                parameter = None if tensor is None else nn.Parameter(tensor)
                self.register_parameter(entry.name, parameter)
            else:
                self.register_buffer(entry.name, tensor)
        self.reset_parameters()

    @property
    def evaluates_as_batchnorm(self) -> bool:
        """Whether evaluation is BatchNorm's with the same state, whatever is learnt."""
        of_stages = (stage.evaluates_as_batchnorm for stage in self.stages)
        return not self.applied_after and all(of_stages)

    def merged_ranks(self, ranks: int) -> int:
        """How many of so many ranks share their statistics with this one in training."""
        return min(self.sync_group_size or ranks, ranks) if self.sync else 1

    def start_weight(self) -> None:
        """Start ``weight`` anew, as after construction."""
        self.stages.affine.start_weight(self.weight)

    # BatchNorm's constructor calls both resets, when only its own tensors exist.

    def reset_running_stats(self) -> None:
        """Forget all statistics: BatchNorm's, and those of the stages."""
        super().reset_running_stats()
        self._reset(is_parameter=False)

    def reset_parameters(self) -> None:
        """Start anew, as after construction."""
        super().reset_parameters()
        if self.weight is not None:
            self.start_weight()
        self._reset(is_parameter=True)

    def _reset(self, is_parameter: bool) -> None:
        for entry in self.stages.entries():
            tensor = getattr(self, entry.name, None)
            if tensor is not None and entry.is_parameter == is_parameter:
                entry.reset(tensor)

    def forward(self, input: Any) -> Any:
        """Normalise ``input`` of shape ``(N, C, H, W)``.

        An empty one gives an empty tensor that still depends on every parameter, and
        leaves the statistics alone.
        """
        x = input  # the name that BatchNorm's callers may use
        if isinstance(x, fx.Proxy):  # a leaf of the graph, as BatchNorm is
            tracer: Any = x.tracer
            path = tracer.path_of_module(self)
            return tracer.create_proxy('call_module', path, (x,), {})
        self._check_input(x)
        y = self._normalize(x, valid_part(self, x))
        for name in self.applied_after:
            y = getattr(self, name)(y)
        return y

    def _normalize(self, x: Tensor, valid: ValidPart | None) -> Tensor:
        """One reduction over ``x``, the stages in their order, one apply."""
        # Only ranks in training take part in collectives, as in SyncBatchNorm.
        merges = self.training and self.sync
        group = sync_group(self.sync_group_size) if merges else None
        if group is None and is_empty(x):
            return x + 0 * sum(parameter.sum() for parameter in self.parameters())
        with full_precision(x.device.type):
            passes: Passes
            passes = passes_for(x, self) if valid is None else PaddedPasses(x, valid)
            return passes.apply(self._coefficients(passes, group))

    def _coefficients(self, passes: Passes, group: ProcessGroup | None) -> Coefficients:
        """What the result is made with: the stages in their order."""
        stages = self.stages
        of_batch = self.training or self.running_mean is None
        if of_batch and group is None:
            self._check_count(passes)
        mean = var = summary = factor = None
        if of_batch or stages.equalizing is not None:
            mean, var = passes.moments()
            if of_batch and self._tracks:
                summary = stages.statistics.summary(self, passes, mean, var)
        elif stages.by_sample:
            mean = passes.mean()
        centred = mean  # of the maps of x', (N, C)
        if stages.equalizing is not None:
            assert mean is not None and var is not None
            factor = stages.equalizing(mean, var)
            centred, var = factor * mean, factor.square() * var
        if stages.centering is not None:
            assert centred is not None
            centred = stages.centering(self, centred)
        if of_batch:
            assert centred is not None and var is not None
            batch = whole_batch(passes, centred, var, summary, group)
            state = None
            if self._tracks:
                # Moves the running statistics; not again where a forward is repeated.
                advance = partial(stages.statistics.advance, self)
                state = self._calls.once(advance, batch, self.eps)
            mu, inv_std = stages.statistics.normalizer(self, batch, state)
        else:
            mu, inv_std = stages.statistics.running(self, compute_dtype(passes.x))
        if not stages.by_sample:
            xhat = Coefficients(mu, inv_std, torch.zeros_like(mu))
            return stages.affine(self, xhat, None)
        assert centred is not None and mean is not None
        # xhat = factor * inv_std * (x - K) + GAP(xhat), and GAP(xhat) needs no pass.
        pooled = inv_std * (centred - mu)
        gate = None
        if stages.scaling is not None:
            gate = stages.scaling(self, pooled, mean)
        if factor is not None:
            inv_std = factor * inv_std
        return stages.affine(self, Coefficients(mean, inv_std, pooled), gate)

    @property
    def _tracks(self) -> bool:
        """Whether training updates running statistics."""
        return self.track_running_stats and self.running_mean is not None

    def _check_count(self, passes: Passes) -> None:
        values, unit = passes.count, 'channel'
        if groups := self.stages.statistics.num_groups:
            values, unit = values * passes.x.shape[1] // groups, 'group'
        if values == 1:
            raise ValueError(
                f'expected more than 1 value per {unit} when training, '
                f'got input size {tuple(passes.x.shape)}'
            )

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f'expected a tensor, got {type(x).__name__}')
        # PyTorch stores float8, and does not compute with it.
        if not x.is_floating_point() or x.element_size() < 2:
            raise TypeError(
                'expected input of a real floating-point dtype of 16 bits or more, '
                f'got {x.dtype}'
            )
        if x.layout != torch.strided:
            raise TypeError(f'expected a dense tensor, got layout {x.layout}')
        if x.dim() != 4:
            raise ValueError(f'expected 4D input (got {x.dim()}D input)')
        # In a trace sizes are tensors, and PyTorch warns where they are compared.
        if not torch.jit.is_tracing() and x.shape[1] != self.num_features:
            raise RuntimeError(
                f'expected input with {self.num_features} channels, '
                f'got {x.shape[1]}: {tuple(x.shape)}'
            )

    def extra_repr(self) -> str:
        """BatchNorm's, and the stages."""
        return ', '.join([super().extra_repr(), *map(repr, self.stages)])

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        """Take a complete BatchNorm state as what it is: stages that do nothing yet.

        Anything less is reported as missing, as ever.
        """
        if (local_metadata.get('version') or 0) < 3:
            self.stages.affine.upgrade(state_dict, prefix)
        entries = self.stages.entries()
        own = [entry for entry in entries if getattr(self, entry.name) is not None]
        names = [name for name in BATCHNORM[:-1] if getattr(self, name) is not None]
        wanted = [prefix + name for name in names]
        is_batchnorm = wanted and all(key in state_dict for key in wanted)
        if is_batchnorm and not any(prefix + e.name in state_dict for e in own):
            for entry in own:
                # Its device counts, as this layer's may be meta, and its kind of tensor: of
                # a sharded model, parameters are DTensors and buffers are not.
                like = state_dict[wanted[0 if entry.is_parameter else -1]]
                tensor = entry.neutral_like(like, self.num_features)
                state_dict[prefix + entry.name] = tensor
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
