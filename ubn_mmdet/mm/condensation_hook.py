"""Records condensation, gate and moving statistics of norm layers while they train.

Every run records layers with a gate; ``custom_hooks = [dict(type='CondensationHook')]`` in
a config records BatchNorm as well, and more often.
"""

import functools
import logging
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers.checks import check_choice, check_count, check_number
from ..layers.stages.statistics import CONDENSATION_MOMENTUM
from ..ops.passes import passes_for
from ..ops.recompute import is_in_backward
from ..ops.statistics import CONDENSATION_SAMPLES, CONDENSATIONS, SUMMARIES
from ..ops.tensors import full_precision
from .condensation_file import QUANTITIES, CondensationFile

FILE = 'condensation.json'


@HOOKS.register_module()
class CondensationHook(Hook):
    """Records what UBN's gate goes by, for every BatchNorm-like layer of a model.

    Every ``interval`` steps a row of numbers, one a layer:

    - ``condensation``: the batch's mean pairwise cosine ``c`` (arXiv 2311.15993; the
      layer's definition), the average if the layer is called several times in the step;
    - ``average``: ``m``, its moving average after the step;
    - ``gate``: the share of the steps since the last row that ended with the gate open;
    - ``shift``: how far the running statistics moved in the step
      (:func:`statistics_shift`).

    A layer with a gate says itself what ``m`` is, and ``c`` follows from how ``m`` moves:
    nothing is computed twice. (A batch with inf or nan, which leaves ``m`` alone, then
    shows ``c = m``.) For other layers, BatchNorm and UBN without a gate, the hook measures
    ``c`` of the input, in the recorded steps alone; their ``m`` takes one measurement for
    all steps since the last, and their ``gate``, 0 or 1, is the one that they would have.
    On several ranks ``c`` is the mean over the ranks. A layer that is not called has no
    number; one in evaluation mode has a measured ``c`` and a shift of 0, but neither
    average nor gate, which play no part there.

    A gate that has been closed for ``patience`` steps in a row is warned of, once: its
    layer trains on statistics that stand still.

    Rows go to ``condensation.json`` in the work folder
    (:class:`~ubn_mmdet.mm.condensation_file.CondensationFile`), which a resumed run
    continues, and to the visualizer as ``condensation/<layer>``, ``shift/<layer>`` and
    ``gate/open``, the mean over the layers. A row is one read back from the device, and
    there are no others, but for the hook's own state at a checkpoint.

    Args:
        interval: Steps from one row to the next.
        threshold: ``tau`` of layers that have no gate, in [0, 1).
        feature: What samples are compared by in layers that do not do it themselves:
            ``'flat'``, whole maps, or ``'pooled'``, their channel means.
        patience: Steps that a gate may stay closed for without a warning.

    Raises:
        TypeError: For an argument of the wrong type.
        ValueError: For an argument out of range.
    """

    def __init__(
        self,
        interval: int = 10,
        threshold: float = 0.15,
        feature: str = 'flat',
        patience: int = 1000,
    ) -> None:
        check_count('interval', interval)
        check_count('patience', patience)
        check_number('threshold', threshold, lambda v: 0 <= v < 1, 'within [0, 1)')
        check_choice('feature', feature, SUMMARIES)
        self.interval = interval
        self.threshold = threshold
        self.feature = feature
        self.patience = patience
        self._layers: dict[str, Any] = {}  # of _BatchNorm, with tensors of their own
        self._handles: list = []
        self._loaded: dict | None = None

    # --- the course of a run --------------------------------------------------------

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what a resumed run may want."""
        self._loaded = checkpoint.get('condensation')

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and continue an earlier record where the run is resumed."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._layers = self._find(model)
        if not self._layers:
            return
        layers = self._layers.values()
        has_gate = [_has_gate(layer) for layer in layers]
        thresholds = [
            layer.condensation_threshold if _has_gate(layer) else self.threshold
            for layer in layers
        ]
        device = next(model.parameters()).device
        self._has_gate = torch.tensor(has_gate, device=device)
        self._any_gate = any(has_gate)
        opens = [_opens_above(layer) for layer in layers]
        self._opens_above = torch.tensor(opens, device=device)
        self._thresholds = torch.tensor(thresholds, device=device)
        self._average = torch.ones(len(layers), device=device)
        self._steps_open = torch.zeros(len(layers), device=device)
        self._steps = 0  # since the last row
        self._closed = torch.zeros(len(layers), device=device)  # steps in a row, by now
        self._warned: set[str] = set()
        # Sum of c, and number of calls; by layer.
        self._calls = torch.zeros(2, len(layers), device=device)

        path = os.path.join(runner.work_dir, FILE)
        self._file = CondensationFile(path, [*self._layers], has_gate, thresholds)
        if runner.iter == 0:
            return
        if self._loaded and len(self._loaded['average']) == len(layers):
            self._average.copy_(self._loaded['average'])
            self._steps_open.copy_(self._loaded['steps_open'])
            self._steps = self._loaded['steps']
            self._closed.copy_(self._loaded['closed'])
        if not self._file.resume(runner.iter):
            print_log(f'{FILE} starts at step {runner.iter}', logger='current')

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Listen to the layers, if this step is to be recorded."""
        if not (self._layers and self.every_n_train_iters(runner, self.interval)):
            return
        self._unhook()  # of a step that was broken off
        self._calls.zero_()
        self._before = [_statistics(layer) for layer in self._layers.values()]
        for calls, layer in zip(
            self._calls.unbind(1), self._layers.values(), strict=True
        ):
            if layer.training and _has_gate(layer):
                handle = layer.register_forward_hook(_derive(calls, layer))
            else:
                measure = functools.partial(_measure, calls, self._feature_of(layer))
                handle = layer.register_forward_pre_hook(measure)
            self._handles.append(handle)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Follow the gates, and record the step if it is one to be recorded."""
        if not self._layers:
            return
        self._steps += 1
        if self._any_gate:
            is_open = self._are_open(self._own_averages())
            self._steps_open += is_open
            self._closed.add_(1).masked_fill_(is_open, 0)
        if self._handles:
            self._unhook()
            self._record(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """What a resumed run goes on from: the state here, the rows in the file."""
        if not self._layers:
            return
        checkpoint['condensation'] = {
            'average': self._average.cpu(),
            'steps_open': self._steps_open.cpu(),
            'steps': self._steps,
            'closed': self._closed.cpu(),
        }
        self._write()

    def after_train(self, runner: Runner) -> None:
        """Leave the file complete."""
        if self._layers:
            self._write()

    # --- one row --------------------------------------------------------------------

    def _record(self, runner: Runner) -> None:
        all_reduce(self._calls)
        total, count = self._calls
        condensation = total / count  # nan for a layer that was not called
        # The average keeps its pace: one measurement stands for all steps since the last.
        followed = 1 - (1 - CONDENSATION_MOMENTUM) ** self._steps
        moved = torch.lerp(self._average, condensation, followed)
        moved = torch.where(moved.isfinite(), moved, self._average)
        self._average = torch.where(self._has_gate, self._own_averages(), moved)
        gate = torch.where(
            self._has_gate,
            self._steps_open / self._steps,
            self._are_open(self._average).float(),
        )
        layers = self._layers.values()
        shifts = [
            self._shift(before, layer)
            for before, layer in zip(self._before, layers, strict=True)
        ]
        rows = [condensation, self._average, gate, torch.stack(shifts).float()]
        values = torch.stack([*rows, self._closed]).to('cpu', copy=True).tolist()
        closed = values.pop()
        self._steps_open.zero_()
        self._steps = 0
        if is_main_process():
            self._publish(runner, dict(zip(QUANTITIES, values, strict=True)))
            self._warn_of_closed(closed)

    def _shift(self, before: tuple[Tensor, Tensor] | None, layer: Any) -> Tensor:
        after = _statistics(layer)
        if before is None or after is None:
            return self._average.new_full((), torch.nan)
        return statistics_shift(before, after, layer.eps)

    def _publish(self, runner: Runner, row: dict[str, list[float | None]]) -> None:
        for i, layer in enumerate(self._layers.values()):
            if not layer.training:
                row['average'][i] = row['gate'][i] = None
        step = runner.iter + 1
        self._file.append(step, row)
        tags = {}
        for name in 'condensation', 'shift':
            for of_layer, value in zip(self._layers, row[name], strict=True):
                tags[f'{name}/{of_layer}'] = value
        gates = [gate for gate in row['gate'] if gate is not None]
        tags['gate/open'] = sum(gates) / len(gates) if gates else torch.nan
        finite = {
            tag: value
            for tag, value in tags.items()
            if value is not None and math.isfinite(value)
        }
        runner.visualizer.add_scalars(finite, step=step)

    def _warn_of_closed(self, closed: list[float]) -> None:
        """Warn of gates that do not open any more, of each once."""
        found = {
            name: layer
            for (name, layer), steps in zip(self._layers.items(), closed, strict=True)
            if steps >= self.patience and layer.training and _has_gate(layer)
        }
        new = [name for name in found if name not in self._warned]
        if not new:
            return
        self._warned.update(new)
        layer = found[new[0]]
        others = f' and {len(new) - 1} more' if len(new) > 1 else ''
        print_log(
            f'the gate of {new[0]}{others} has been closed for {self.patience} steps in a '
            'row. A layer whose gate is closed normalises with its running statistics and '
            f'does not move them; {new[0]} has moved them {int(layer.num_batches_tracked)} '
            f'times. {FILE} in the work folder has the course of each layer. If statistics '
            f'are to move on, lower condensation_threshold ({layer.condensation_threshold}'
            '), or set it to None, which takes the gate away, as the preset ubn-no-gate '
            'does; in a comparison, train that as well.',
            logger='current',
            level=logging.WARNING,
        )

    def _find(self, model: nn.Module) -> dict[str, Any]:
        """The layers to be recorded, by name."""
        found = _batchnorms(model)
        if not found:
            print_log('CondensationHook: the model has no BatchNorm', logger='current')
        return found

    def _are_open(self, averages: Tensor) -> Tensor:
        """Which gates are open at these values of ``m``, ``(layers,)`` bool."""
        return (averages > self._thresholds) == self._opens_above

    def _own_averages(self) -> Tensor:
        """``m`` of the layers that have one, ``(layers,)``; 1 for the others."""
        one = self._average.new_ones(())
        own = [
            layer.condensation if _has_gate(layer) else one
            for layer in self._layers.values()
        ]
        return torch.stack(own).float()

    def _feature_of(self, layer: Any) -> str:
        return layer.condensation_feature if _has_gate(layer) else self.feature

    def _write(self) -> None:
        if is_main_process():
            self._file.write()

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@HOOKS.register_module()
class GateHook(CondensationHook):
    """The :class:`CondensationHook` that every run has once ``ubn_mmdet`` is imported.

    It records layers with a gate alone, where nothing has to be measured, in rows far
    apart, and gives way to a ``CondensationHook`` of the run's own.
    """

    def __init__(self) -> None:
        super().__init__(interval=500)

    def before_train(self, runner: Runner) -> None:
        """Find layers with a gate, unless another hook does."""
        if not any(
            isinstance(h, CondensationHook) and h is not self for h in runner.hooks
        ):
            super().before_train(runner)

    def _find(self, model: nn.Module) -> dict[str, Any]:
        layers = _batchnorms(model)
        return {name: layer for name, layer in layers.items() if _has_gate(layer)}


def statistics_shift(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float
) -> Tensor:
    """How far running statistics moved, ``()``: a distance in standard deviations.

    The root mean square, over channels, of the Fisher-Rao distance between the normal
    distributions before and after, to first order:
    ``d^2 = (mean change)^2 / (var + eps) + (change of log(var + eps))^2 / 2``. A move of
    the mean by one standard deviation, with the variance as it was, is 1; half of ``d^2``
    is the Kullback-Leibler divergence of small moves.

    Args:
        before: Running mean and variance, ``(C,)`` each.
        after: The same after the step.
        eps: The layer's.
    """
    (mean, var), (new_mean, new_var) = before, after
    of_mean = (new_mean - mean).square() / (var + eps)
    of_var = ((new_var + eps) / (var + eps)).log().square() / 2
    return (of_mean + of_var).mean().sqrt()


def _batchnorms(model: nn.Module) -> dict[str, Any]:
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, _BatchNorm)}


def _has_gate(layer: nn.Module) -> bool:
    return getattr(layer, 'condensation', None) is not None


def _opens_above(layer: Any) -> bool:
    """Whether ``m > tau`` means an open gate; of a reversed one it does not."""
    return not _has_gate(layer) or layer.stages.statistics.opens == 'similar'


def _statistics(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Copies of running mean and variance, if there are any."""
    if layer.running_mean is None:
        return None
    return layer.running_mean.clone(), layer.running_var.clone()


def _derive(calls: Tensor, layer: Any) -> Callable:
    """A forward hook that finds ``c`` from ``m <- 0.9 m + 0.1 c``."""
    before = layer.condensation.clone()

    def derive(layer: Any, args: tuple, output: Tensor) -> None:
        if is_in_backward():
            return
        after = layer.condensation
        if args[0].numel():
            _count(calls, torch.lerp(before, after, 1 / CONDENSATION_MOMENTUM))
        before.copy_(after)

    return derive


def _measure(calls: Tensor, feature: str, layer: nn.Module, args: tuple) -> None:
    """A forward pre-hook, once bound, that computes ``c`` of the input."""
    x = args[0]
    if not is_in_backward() and x.numel():
        _count(calls, measure_condensation(x, feature))


@torch.no_grad()
def measure_condensation(x: Tensor, feature: str) -> Tensor:
    """The mean pairwise cosine of a batch as the layer defines it, ``()``.

    Args:
        x: ``(N, C)`` or ``(N, C, ...)``, not empty.
        feature: ``'flat'`` or ``'pooled'``.
    """
    maps = x.detach()[:CONDENSATION_SAMPLES]
    if maps.dim() != 4:
        maps = maps.reshape(*maps.shape[:2], -1, 1)
    with full_precision(x.device.type):
        summary = SUMMARIES[feature](maps, *passes_for(maps).moments())
        return CONDENSATIONS[feature](*summary)


def _count(calls: Tensor, c: Tensor) -> None:
    total, number = calls
    total.add_(c)
    number.add_(1)
