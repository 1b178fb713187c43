"""The pipeline that UBN and its relatives share: stages around BatchNorm's state.

Up to a depthwise kernel every layer here is, for each sample and channel, an affine map
of the input, and all its coefficients follow from the mean and variance of each map
(docs/how-it-works.md). So a layer is a choice of stages on ``(N, C)`` tensors between two
passes over ``x``, a reduction and an apply (``ops/passes.py``).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.compiling import Compiler, is_compiled
from ..ops.padding import PaddedPasses, ValidPart, valid_part
from ..ops.passes import Coefficients, Passes, passes_for
from ..ops.recompute import Calls, is_in_backward, not_recomputed, unwatched
from ..ops.statistics import batch_statistics, merge_statistics, sync_group
from ..ops.tensors import compute_dtype, full_precision, is_empty
from .checks import check_count, check_dtype, check_flag, check_number
from .stages.affine import Centering, ChannelAffine, L2Equalizing, NormalizedScaling
from .stages.stage import Entry, Layer, Stage
from .stages.statistics import Batch, BatchStatistics, State, Summary

BATCHNORM = 'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'


@dataclass(frozen=True)
class Stages:
    """What a layer consists of; the default is BatchNorm.

    Attributes:
        centering: Shifts the input by its own mean; None for not at all.
        statistics: Mean and standard deviation to normalise with, and their averages: a
            :class:`~.stages.statistics.BatchStatistics`.
        scaling: A gate by the input's own mean; None for no gate.
        affine: Writes the result.
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

    def fold(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The BatchNorm that a layer with this state is in evaluation.

        With a ``spatial_weight``, if it has neighbours, around ``weight``: BatchNorm and a
        kernel. A stage none of whose tensors is there counts as switched off.

        Args:
            state: Of one layer, by the names of its tensors; all of BatchNorm's are there.

        Raises:
            ValueError: If the layer depends on its input in a way that BatchNorm does not.
        """
        state = dict(state)
        for stage in reversed(list(self)):
            names = [entry.name for entry in stage.entries()]
            if not names or any(name in state for name in names):
                stage.fold(state, self.affine.bias_is_scaled)
        return state


if TYPE_CHECKING:
    Base = _BatchNorm  # what the mix-in may take for granted
else:
    Base = object


class Maps(NamedTuple):
    """What is known of the maps of one call, on this rank.

    Attributes:
        dtype: To compute in.
        count: Elements a channel.
        mean: Of each map, ``(N, C)``; None if no stage asks for it.
        var: Biased, likewise; None if the running statistics are used.
        shares: The samples' shares of the elements, ``(N, 1)``; None for equal ones.
        summary: What the statistics want to know of the batch.
        factor: What each sample is scaled by, ``(N, 1)``, which ``var`` has been, and
            ``mean`` has not; None for 1.
    """

    dtype: torch.dtype
    count: int  # type: ignore[assignment]
    mean: Tensor | None = None
    var: Tensor | None = None
    shares: Tensor | None = None
    summary: Summary | None = None
    factor: Tensor | None = None


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
        return all(stage.evaluates_as_batchnorm for stage in self.stages)

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

    def forward(self, x: Any) -> Any:
        """Normalise ``x`` of shape ``(N, C, H, W)``.

        An empty ``x`` gives an empty tensor that still depends on every parameter, and
        leaves the statistics alone.
        """
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
        stages = self.stages
        of_batch = self.training or self.running_mean is None
        # Only ranks in training take part in collectives, as in SyncBatchNorm.
        merges = self.training and self.sync
        group = sync_group(self.sync_group_size) if merges else None
        if group is None:
            if is_empty(x):
                return x + 0 * sum(parameter.sum() for parameter in self.parameters())
            values = stages.statistics.values
            if of_batch and values(_elements(x, valid), x.shape[1]) == 1:
                raise ValueError(
                    f'expected more than 1 value per {stages.statistics.unit} when '
                    f'training, got input size {tuple(x.shape)}'
                )
        with full_precision(x.device.type):
            passes: Passes
            passes = passes_for(x, self) if valid is None else PaddedPasses(x, valid)
            maps = self._reduce(passes, of_batch, valid)
            statistics_compile = group is None and stages.statistics.compiles
            if statistics_compile and is_compiled(self, passes):
                result = self._compiled_coefficients(maps)
            else:
                _, batch = found = centred_batch(self, maps, group)
                state = self._state(batch) if batch and self._tracks else None
                result = coefficients(self, maps, state, found)
            return passes.apply(result)

    @property
    def _tracks(self) -> bool:
        """Whether a batch in training has to do with the running statistics."""
        return self.track_running_stats and self.running_mean is not None

    def _reduce(self, passes: Passes, of_batch: bool, valid: ValidPart | None) -> Maps:
        """What the stages want to know of the maps of ``x``."""
        dtype, count = compute_dtype(passes.x), _elements(passes.x, valid)
        equalizing, summary, factor = self.stages.equalizing, None, None
        if not of_batch and equalizing is None:
            return Maps(dtype, count, passes.mean() if self.stages.by_sample else None)
        mean, var = passes.moments()
        if of_batch and self._tracks:
            whole = _over_whole_maps(mean, var, passes.x, valid)
            summary = self.stages.statistics.summary(self, passes.x, *whole)
        if equalizing is not None:
            factor = equalizing(mean, var)
            var = factor.square() * var
        if not of_batch:
            return Maps(dtype, count, mean, factor=factor)
        shares = None if valid is None else valid.positions / valid.count
        return Maps(dtype, count, mean, var, shares, summary, factor)

    def _compiled_coefficients(self, maps: Maps) -> Coefficients:
        """The coefficients by a compiler: one function for the state, one for the rest.

        A repeated forward must run the second one, as the first forward did: activation
        checkpointing counts what is saved. It finds its state, or moves it uncompiled.
        """
        names = [entry.name for entry in self.stages.entries()]
        run, state = Compiler(self, (*BATCHNORM, *names)), None
        if maps.var is not None and self._tracks:
            with torch.no_grad():
                if is_in_backward():
                    _, batch = centred_batch(self, maps)
                    assert batch is not None  # in training there is one
                    state = self._state(batch)
                else:
                    mean, var, state = run(advanced, maps)
                    self._calls.add(mean, var, state)
        return run(coefficients, maps, state, None)

    @torch.no_grad()
    def _state(self, batch: Batch) -> State:
        """Move the state by a batch, unless it was here before; what it is used with."""
        # Detached also from forward-mode derivatives, which are not for buffers.
        batch = batch._replace(mean=batch.mean.detach(), var=batch.var.detach())
        advance, found = self.stages.statistics.advance, None
        with unwatched():
            if torch.compiler.is_compiling():
                return tuple(map(not_recomputed, advance(self, batch)))
            if torch._C._are_functorch_transforms_active():
                return advance(self, batch)
            if is_in_backward():
                found = self._calls.find(batch.mean, batch.var, self.eps)
            if found is None:
                state = advance(self, batch)
                if not is_in_backward():
                    self._calls.add(batch.mean, batch.var, state)
                return state
            repeated, past = found
            is_new = ~repeated if batch.counts is None else batch.counts & ~repeated
            present = advance(self, batch._replace(counts=is_new))
            pairs = zip(past, present, strict=True)
            return tuple(torch.where(repeated, *pair) for pair in pairs)

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
        # A traced size is a tensor: to compare it is to warn of it.
        if not torch.jit.is_tracing() and x.shape[1] != self.num_features:
            raise RuntimeError(
                f'expected input with {self.num_features} channels, '
                f'got {x.shape[1]}: {tuple(x.shape)}'
            )

    def extra_repr(self) -> str:
        """BatchNorm's, and the settings of the statistics."""
        settings = vars(self.stages.statistics).items()
        shown = [f'{k}={v}' for k, v in settings if not k.startswith('_')]
        return ', '.join([super().extra_repr(), *shown])

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
            like = state_dict[wanted[0]]  # for its device: this layer's may be meta
            for entry in own:
                tensor = entry.neutral_like(like, self.num_features)
                state_dict[prefix + entry.name] = tensor
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def centred_batch(
    layer: Layer, maps: Maps, group: ProcessGroup | None = None
) -> tuple[Tensor | None, Batch | None]:
    """The means of the centred maps, ``(N, C)``, and the batch of them on all ranks.

    None for either that is not asked for.
    """
    centering = layer.stages.centering
    centred = maps.mean
    if centred is not None and maps.factor is not None:
        centred = maps.factor * centred
    if centering is not None:
        centred = centering(layer, centred)
    if centred is None or maps.var is None:
        return centred, None
    mean, var = batch_statistics(centred, maps.var, maps.shares)
    if group is None:
        return centred, Batch(mean, var, maps.count, maps.summary)
    packed = mean.new_empty(0)
    if maps.summary is not None:
        values, number = maps.summary
        packed = torch.cat([values, values.new_full((1,), int(number))])
    mean, var, total, packed = merge_statistics(mean, var, maps.count, packed, group)
    summary = None if maps.summary is None else (packed[:-1], packed[-1])
    return centred, Batch(mean, var, total, summary, total > 0, group)


def coefficients(
    layer: Layer,
    maps: Maps,
    state: State | None,
    found: tuple[Tensor | None, Batch | None] | None,
) -> Coefficients:
    """What the result is made with: the stages, without their memory.

    ``found`` is what :func:`centred_batch` finds; None where it follows from the maps. A
    batch that has moved nothing has no ``state``.
    """
    stages = layer.stages
    centred, batch = found or centred_batch(layer, maps)
    if batch is None:
        mu, inv_std = stages.statistics.running(layer, maps.dtype)
    else:
        mu, inv_std = stages.statistics.normalizer(layer, batch, state)
    if not stages.by_sample:
        xhat = Coefficients(mu, inv_std, torch.zeros_like(mu))
        return stages.affine(layer, xhat, None)
    assert centred is not None and maps.mean is not None  # a stage has asked for them
    # xhat = inv_std * (x - K) + GAP(xhat), and GAP(xhat) needs no pass.
    pooled = inv_std * (centred - mu)
    if maps.factor is not None:
        inv_std = maps.factor * inv_std
    gate = None
    if stages.scaling is not None:
        gate = stages.scaling(layer, pooled, maps.mean)
    return stages.affine(layer, Coefficients(maps.mean, inv_std, pooled), gate)


def advanced(layer: Layer, maps: Maps) -> tuple[Tensor, Tensor, State]:
    """Mean and variance of the batch, ``(C,)``, and the state that it has moved.

    This and :func:`coefficients` are compiled. On one rank both find the batch by the maps.
    """
    _, batch = centred_batch(layer, maps)
    assert batch is not None
    return batch.mean, batch.var, layer.stages.statistics.advance(layer, batch)


def _elements(x: Tensor, valid: ValidPart | None) -> int:
    """Elements of ``x`` a channel."""
    return x.numel() // x.shape[1] if valid is None else valid.count


def _over_whole_maps(
    mean: Tensor, var: Tensor, x: Tensor, valid: ValidPart | None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of whole maps that have the valid part's sum of squares.

    That sum is what a summary needs them for, and the direction of the mean.
    """
    if valid is None:
        return mean, var
    share = valid.positions / (x.shape[2] * x.shape[3])
    return share.sqrt() * mean, share * var
