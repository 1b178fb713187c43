"""Records condensation, gate and moving statistics of norm layers while they train.

Every run records layers with a gate; ``custom_hooks = [dict(type='CondensationHook')]`` in
a config records BatchNorm as well, and more often.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..files import write_whole
from ..layers.checks import check_count
from ..layers.stages.statistics import CONDENSATION_MOMENTUM
from ..records import read_json
from .condensation import StepMeasurement, has_gate
from .members import unwrapped

FILE = 'condensation.json'
THRESHOLD = 0.15  # tau of layers that have no gate: UBN's
QUANTITIES = 'condensation', 'average', 'gate', 'shift'

Row = Mapping[str, Sequence[float]]  # a number per layer, by quantity


@HOOKS.register_module()
class CondensationHook(Hook):
    """Records what UBN's gate goes by, for every BatchNorm-like layer of a model.

    Every ``interval`` steps a row of numbers, one a layer: ``condensation``, the batch's
    mean pairwise cosine ``c`` (arXiv 2311.15993); ``average``, its moving average ``m``;
    ``gate``, the share of the batches since the last row that the gate was open for; and
    ``shift``, how far the running statistics moved in the step
    (:func:`~ubn_mmdet.mm.condensation.statistics_shift`). docs/how-it-works.md says more.

    If a layer is called several times in the step, ``c`` is their mean, and on several
    ranks it is the mean over the ranks. For layers without a gate, BatchNorm and UBN
    without one, ``c`` of whole maps of the input is measured. A layer that is not called
    has no number but its ``m``; one in evaluation mode has neither average nor gate.

    The log warns once of each gate that has been closed for ``patience`` steps in a row:
    its layer trains on statistics that stand still.

    Rows go to ``condensation.json`` in the work folder, which a resumed run continues. The
    visualizer gets ``condensation/<layer>``, ``shift/<layer>`` and ``gate/open``, the mean
    over the layers. A row is one read back from the device, and nothing is done in the
    steps between.

    Args:
        interval: Steps from one row to the next.
        patience: Steps that a gate may stay closed for without a warning.

    Raises:
        TypeError, ValueError: For an argument that is not one of those described.
    """

    def __init__(self, interval: int = 10, patience: int = 1000) -> None:
        check_count('interval', interval)
        check_count('patience', patience)
        self.interval = interval
        self.patience = patience
        self._layers: dict[str, Any] = {}  # of _BatchNorm, with tensors of their own
        self._measurement: StepMeasurement | None = None
        self._loaded: dict | None = None
        self._warned: set[str] = set()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what a resumed run may want."""
        self._loaded = checkpoint.get('condensation')

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and continue an earlier record where the run is resumed."""
        model = unwrapped(runner)
        self._layers = {n: m for n, m in model.named_modules() if self._records(m)}
        if not self._layers:
            return
        layers = list(self._layers.values())
        self._device = next(model.parameters()).device
        gates = [has_gate(layer) for layer in layers]
        self._has_gate = torch.tensor(gates)
        # Of the last row, or the start: its step; the layers' averages, the batches that
        # had moved their statistics, and for how many steps none had.
        self._last_step = runner.iter
        now = StepMeasurement(layers, self._device).read()
        self._last = torch.stack([torch.ones(len(layers)), now[3], 0 * now[1]])
        head = {
            'layers': list(self._layers),
            'has_gate': gates,
            'threshold': [
                layer.condensation_threshold if has_gate(layer) else THRESHOLD
                for layer in layers
            ],
        }
        self._file = CondensationFile(os.path.join(runner.work_dir, FILE), head)
        if runner.iter == 0:
            return
        if self._loaded and self._loaded['layers'].shape == self._last.shape:
            self._last_step = self._loaded['step']
            self._last = self._loaded['layers'].cpu()
        if is_main_process() and (kept := self._file.resume(runner.iter)):
            runner.logger.info(
                f'{FILE} starts at step {runner.iter}; the one that was there is of other '
                f'layers or thresholds, and is kept as {kept.name}'
            )

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Listen to the layers, if this step is to be recorded."""
        if self._layers and self.every_n_train_iters(runner, self.interval):
            layers = list(self._layers.values())
            self._measurement = StepMeasurement(layers, self._device)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Record the step, if it is one to be recorded."""
        if self._measurement is None:
            return
        row = self._advance(self._measurement.read(), runner.iter + 1)
        self._measurement = None
        if is_main_process():
            self._file.append(runner.iter + 1, row)
            runner.visualizer.add_scalars(
                scalars(list(self._layers), row), step=runner.iter + 1
            )
            self._warn_of_closed(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """What a resumed run goes on from: the state here, the rows in the file."""
        if self._layers:
            state = {'step': self._last_step, 'layers': self._last}
            checkpoint['condensation'] = state
            self.after_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Leave the file complete."""
        if self._layers and is_main_process():
            self._file.write()

    def _advance(self, reading: Tensor, step: int) -> Row:
        """The row of a step, from what was measured; moves the state to it."""
        condensation, calls, own, updates, shift = reading
        last_average, last_updates, last_closed = self._last
        steps = step - self._last_step
        # The average keeps its pace: one measurement stands for all steps since the last.
        followed = 1 - (1 - CONDENSATION_MOMENTUM) ** steps
        average = torch.lerp(last_average, condensation, followed)
        average = torch.where(average.isfinite(), average, last_average)
        average = torch.where(self._has_gate, own, average)
        moved = updates - last_updates
        # A compiled model calls no hooks. An average that has moved tells of a call.
        is_called = (calls > 0) | (self._has_gate & (own != last_average))
        calls = torch.where(is_called, calls.clamp(min=1), 0)
        gate = (moved / (steps * calls)).clamp(max=1)
        gate = torch.where(self._has_gate, gate, (average > THRESHOLD).float())
        closed = torch.where(moved > 0, 0, last_closed + steps * is_called)
        self._last, self._last_step = torch.stack([average, updates, closed]), step
        trains = torch.tensor([layer.training for layer in self._layers.values()])
        gate, average = (torch.where(trains, v, torch.nan) for v in (gate, average))
        values = condensation, average, gate, shift
        return {q: v.tolist() for q, v in zip(QUANTITIES, values, strict=True)}

    def _warn_of_closed(self, runner: Runner) -> None:
        """Warn of gates that do not open any more, of each once."""
        closed = dict(zip(self._layers, self._last[2].tolist(), strict=True))
        new = [
            name
            for name, layer in self._layers.items()
            if closed[name] >= self.patience and has_gate(layer) and layer.training
            if name not in self._warned
        ]
        if not new:
            return
        self._warned.update(new)
        layer = self._layers[new[0]]
        others = f' and {len(new) - 1} more' if len(new) > 1 else ''
        runner.logger.warning(
            f'the gate of {new[0]}{others} has been closed for {self.patience} steps in a '
            'row. A layer whose gate is closed normalises with its running statistics and '
            f'does not move them; {new[0]} has moved them {int(layer.num_batches_tracked)} '
            f'times ({FILE} has the course of each layer). If statistics are to move on, '
            f'lower condensation_threshold ({layer.condensation_threshold}), or set it to '
            'None, as the preset ubn-no-gate does; in a comparison, train that as well. '
            'If they are to settle first, set condensation_min_updates.'
        )

    @staticmethod
    def _records(layer: nn.Module) -> bool:
        """Whether a layer is to be recorded."""
        return isinstance(layer, _BatchNorm)


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

    @staticmethod
    def _records(layer: nn.Module) -> bool:
        return has_gate(layer)


def scalars(layers: Sequence[str], row: Mapping[str, Sequence]) -> dict[str, float]:
    """The numbers of a row for the visualizer, by tag."""
    tags = {
        f'{quantity}/{layer}': value
        for quantity in ('condensation', 'shift')
        for layer, value in zip(layers, row[quantity], strict=True)
    }
    if gates := [gate for gate in row['gate'] if math.isfinite(gate)]:
        tags['gate/open'] = sum(gates) / len(gates)
    return {tag: value for tag, value in tags.items() if math.isfinite(value)}


class CondensationFile:
    """The record of a run, one JSON file: rows by step, a column a layer.

    What there is no number for is null. ``head`` has a list for each key that says what the
    columns are.
    """

    def __init__(self, path: str | os.PathLike, head: Mapping[str, object]) -> None:
        self.path = Path(path)
        self._head = head
        self._columns: dict[str, list] = {name: [] for name in ('steps', *QUANTITIES)}

    def resume(self, step: int) -> Path | None:
        """Take over the file on disk up to ``step``, if it is of these layers.

        A record of something else stays, under another name.

        Returns:
            That name, if there was such a record.
        """
        known = read_json(self.path)
        if known is None:
            return None
        is_whole = isinstance(known, dict) and known.keys() >= self._columns.keys()
        if not is_whole or any(known.get(k) != v for k, v in self._head.items()):
            return self.path.replace(self.path.with_suffix(f'.before-{step}.json'))
        rows = sum(s <= step for s in known['steps'])
        self._columns = {name: known[name][:rows] for name in self._columns}
        return None

    def append(self, step: int, row: Row) -> None:
        """Add a row, and write the file if it is time.

        That is at once for the first hundred rows, later whenever about a hundredth has
        been added: a row of a long run then costs no more writing than a row of a short.
        """
        self._columns['steps'].append(step)
        for name in QUANTITIES:
            self._columns[name].append([*map(_short, row[name])])
        rows = len(self._columns['steps'])
        if rows % (1 + rows // 100) == 0:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        write_whole(self.path, json.dumps({**self._head, **self._columns}).encode())


def _short(value: float) -> float | None:
    """Six digits, which is what float32 has; JSON knows no nan."""
    return float(f'{value:.6g}') if math.isfinite(value) else None
