"""Measures what the gates of norm layers go by, in one training step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..layers.stages.statistics import CONDENSATION_MOMENTUM
from ..ops.passes import passes_for
from ..ops.recompute import is_in_backward
from ..ops.statistics import CONDENSATION_SAMPLES, CONDENSATIONS, SUMMARIES
from ..ops.tensors import full_precision


class StepMeasurement:
    """Listens to BatchNorm-like layers from the moment it is made until it is read.

    A layer with a gate says itself what ``m`` is, and ``c`` follows from how ``m`` moves:
    nothing is computed twice. (A batch with inf or nan, which leaves ``m`` alone, then
    shows ``c = m``.) For others ``c`` of the input is measured. ``device`` is that of the
    layers' tensors.
    """

    def __init__(self, layers: Sequence[Any], device: torch.device) -> None:
        self._layers = layers
        # Sum of c, and number of calls; by layer.
        self._calls = torch.zeros(2, len(layers), device=device)
        self._before = [_statistics(layer) for layer in layers]
        self._handles = []
        for calls, layer in zip(self._calls.unbind(1), layers, strict=True):
            before = layer.condensation.clone() if has_gate(layer) else None
            listen = partial(_listen, calls, before)
            handle = layer.register_forward_hook(listen, with_kwargs=True)
            self._handles.append(handle)

    def read(self) -> Tensor:
        """What the layers did, ``(5, layers)`` on the CPU, in one read of the device.

        The rows, nan where there is no number: ``c``, the mean over the step's calls and
        over ranks; calls on this rank, with a batch that is not empty; ``m`` of layers
        with a gate; batches that have moved the running statistics by now; how far these
        moved in the step (:func:`statistics_shift`). A collective operation.
        """
        for handle in self._handles:
            handle.remove()
        calls = self._calls[1].clone()
        all_reduce(self._calls)
        total, count = self._calls
        nan = total.new_full((), torch.nan)
        rows: list[list[Tensor]] = [[], [], []]  # m, updates, shift
        for before, layer in zip(self._before, self._layers, strict=True):
            m = getattr(layer, 'condensation', None)
            updates = layer.num_batches_tracked
            after, shift = _statistics(layer), None
            if before and after:
                shift = statistics_shift(before, after, layer.eps)
            for row, value in zip(rows, (m, updates, shift), strict=True):
                row.append(nan if value is None else value.float())
        found = torch.stack([total / count, calls, *map(torch.stack, rows)])
        return found.to('cpu', copy=True)


def has_gate(layer: nn.Module) -> bool:
    """Whether a layer follows the condensation of its batches."""
    return getattr(layer, 'condensation', None) is not None


def statistics_shift(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float
) -> Tensor:
    """How far running statistics moved, ``()``: a distance in standard deviations.

    The root mean square, over channels, of the Fisher-Rao distance between the normal
    distributions before and after, to first order:
    ``d^2 = (mean change)^2 / (var + eps) + (change of log(var + eps))^2 / 2``. A move of
    the mean by one standard deviation, with the variance as it was, is 1; half of ``d^2``
    is the Kullback-Leibler divergence of small moves.

    ``before`` and ``after`` are the running mean and variance, ``(C,)`` each.
    """
    (mean, var), (new_mean, new_var) = before, after
    of_mean = (new_mean - mean).square() / (var + eps)
    of_var = ((new_var + eps) / (var + eps)).log().square() / 2
    return (of_mean + of_var).mean().sqrt()


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


def _statistics(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Copies of running mean and variance, if there are any."""
    if layer.running_mean is None:
        return None
    return layer.running_mean.clone(), layer.running_var.clone()


def _listen(
    calls: Tensor,
    before: Tensor | None,
    layer: Any,
    args: tuple,
    named: dict,
    _: object,
) -> None:
    """Add a call and its ``c``: as ``m <- 0.9 m + 0.1 c`` tells, or of the input."""
    if is_in_backward():
        return
    x, *_ = args or named.values()
    if before is not None and layer.training:
        c = torch.lerp(before, layer.condensation, 1 / CONDENSATION_MOMENTUM)
        before.copy_(layer.condensation)  # an empty batch moves it, too, if ranks merge
    elif x.numel():
        feature = layer.condensation_feature if has_gate(layer) else 'flat'
        c = measure_condensation(x, feature)
    if x.numel():
        calls += torch.stack([c, torch.ones_like(c)])
