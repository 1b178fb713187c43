"""Forecasts which gates will close, from a few batches and before any training."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from statistics import fmean
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...layers import UBN
from ...layers.stages.statistics import CONDENSATION_MOMENTUM
from ..condensation import has_gate, measure_condensation
from .finding import NOTE, WARNING, Finding
from .side import Side

STEPS = 1000  # that are forecast; the batches are repeated as often as it takes


def forecast_gates(side: Side, images: int) -> Iterator[Finding]:
    """Which gates will close, with the weights that training starts from.

    A gate that closes does so in the first steps, in which weights hardly move. Layers
    without a gate are measured as if they had one.

    Args:
        side: Its train loader's data are needed.
        images: How many to measure, in batches of the loader's size.
    """
    if not side.live:
        what = f'{side.name} holds all statistics, so gates play no part'
        yield Finding(NOTE, 'gates', what)
        return
    settings = deepcopy(side.cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    settings.pop('prefetch_factor', None)
    try:
        loader = Runner.build_dataloader(settings, seed=0)
    except OSError as error:
        what = f'the gates of {side.name} are not forecast: {error}'
        yield Finding(WARNING, 'train_dataloader', what)
        return
    model: Any = revert_sync_batchnorm(deepcopy(side.model)).train()
    count = min(-(-images // settings.batch_size), len(loader))
    batches = track_iter_progress((islice(loader, count), count), file=sys.stderr)
    found = condensations(
        model,
        batches,
        lambda data: model(**model.data_preprocessor(data, True), mode='loss'),
    )
    start = ' with random weights' if side.absent else ''
    closing = 0
    for name, values in found.items():
        layer = side.norms[name]
        if not (closed := closed_steps(layer, values)):
            continue
        closing += 1
        what = (
            f'the gate of {side.name} closes at step {closed[0]}{start}, and is closed '
            f'in {len(closed)} of {STEPS} steps: c is {fmean(values):.3f}'
        )
        is_real = has_gate(layer)
        yield Finding(
            WARNING if is_real else NOTE,
            name,
            what if is_real else f'if it had: {what}',
        )
    what = f'{len(found) - closing} of {len(found)} gates of {side.name} stay open'
    yield Finding(NOTE, 'gates', f'{what}{start}, in {count} batches')


@torch.no_grad()
def condensations(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object]
) -> dict[str, list[float]]:
    """The mean pairwise cosine ``c`` of each batch in each live norm layer.

    Args:
        model: Its norm layers' state moves.
        batches: As one process gets them.
        forward: Takes a batch, and calls the model as training does.

    Returns:
        By the name of the layer; layers that no batch reached are left out.
    """
    found: dict[str, list[float]] = {}

    def measure(name: str, layer: Any, args: tuple) -> None:
        feature = layer.condensation_feature if has_gate(layer) else 'flat'
        if args[0].numel():
            c = float(measure_condensation(args[0], feature))
            found.setdefault(name, []).append(c)

    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            layer.register_forward_pre_hook(partial(measure, name))
    for batch in batches:
        forward(batch)
    return found


def closed_steps(layer: Any, values: Sequence[float]) -> list[int]:
    """The steps, from 1 to :data:`STEPS`, that end with the gate closed.

    Args:
        layer: Has the gate, in the state that training starts from. One without a gate is
            supposed to have UBN's.
        values: ``c`` of batch after batch; what follows is taken to repeat them.
    """
    gate: Any = deepcopy(layer) if has_gate(layer) else UBN(1)
    closed = []
    for step, c in enumerate(islice(cycle(values), STEPS), 1):
        gate.condensation += CONDENSATION_MOMENTUM * (c - gate.condensation)
        if gate.gate_is_open:
            gate.num_batches_tracked += 1
        else:
            closed.append(step)
    return closed
