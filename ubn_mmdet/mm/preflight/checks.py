"""The checks: functions of two sides and the number of processes that yield findings."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from itertools import cycle, islice
from math import isclose, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress

from ...layers import UBN
from ...layers.checks import check_count
from ...layers.stages.statistics import CONDENSATION_MOMENTUM
from ...records import differences
from ...version import __version__
from ..condensation import StepMeasurement, has_gate
from ..config_nodes import param_schedulers, type_name
from ..start_hooks import LIMIT, norm_differences, pretrained_modules, pretrained_state
from .side import Side

LEVELS = NOTE, WARNING, REFUSAL = 'note', 'warning', 'refusal'
VERDICTS = {NOTE: 'pass', WARNING: 'warnings', REFUSAL: 'refusal'}  # by the highest
NODE = 8  # processes whose statistics published comparisons merge at most
STEPS = 1000  # that gates are forecast for
_OF_NORMS = 'norm', 'norm_cfg', 'custom_imports'  # keys that say which norm it is
_WARM_UPS = 'LinearLR', 'ConstantLR', 'QuadraticWarmupLR'


class Finding(NamedTuple):
    """What a check has found: how grave it is, at which key, layer, file or side, and what.

    A note is for information. A warning is of a difference that may be meant. A refusal is
    of a run whose result would be worth nothing.
    """

    level: str
    where: str
    what: str


Findings = Iterator[Finding]


def preflight(a: Side, b: Side, world: int = 1, images: int = 0) -> dict:
    """Check two sides of a comparison.

    Args:
        a: The baseline.
        b: What is compared with it.
        world: Processes that each will train on.
        images: Training images to forecast the gates from; 0 for no forecast.

    Returns:
        What json is to keep: ``verdict`` (one of ``VERDICTS``), ``findings``
        (:class:`Finding`, as dicts), what they are of, and ``id``, a hash of all that.

    Raises:
        TypeError, ValueError: If a number is not one of those.
        OSError: If there are no images to forecast the gates from.
    """
    check_count('world', world)
    check_count('images', images, least=0)
    findings = [finding for check in CHECKS for finding in check(a, b, world)]
    for side in (a, b) if images else ():
        findings += forecast_gates(side, images)
    levels = [finding.level for finding in findings]
    packages = 'torch', 'mmengine', 'mmcv', *dict.fromkeys((a.scope, b.scope))
    versions = {name: import_module(name).__version__ for name in packages}
    manifest = {
        'verdict': VERDICTS[max(levels, key=LEVELS.index, default=NOTE)],
        'configs': [
            {
                'name': side.name,
                'file': Path(side.cfg.filename or '').name,
                'hash': _short_hash(side.content()),
            }
            for side in (a, b)
        ],
        'world': world,
        'images': images,
        'versions': {'ubn_mmdet': __version__, **versions},
        'findings': [finding._asdict() for finding in findings],
    }
    return {'id': _short_hash(manifest), **manifest}


def _short_hash(content: dict) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_keys(a: Side, b: Side, world: int) -> Findings:
    """Everything that differs beside the norm."""
    for text in differences(b.content(), a.content()):
        key, _, values = text.partition(' ')
        if not set(key.split('.')) & set(_OF_NORMS):
            level = NOTE if key.endswith('init_cfg.checkpoint') else WARNING
            yield Finding(level, key, f'{b.name} has {values}')


def norm_layers(a: Side, b: Side, world: int) -> Findings:
    """Norm layers are in the same places, and alike in what every norm has."""
    # By the module that has them: a GroupNorm may be called gn1 where a BatchNorm is bn1.
    in_a, in_b = (Counter(n.rpartition('.')[0] for n in side.norms) for side in (a, b))
    elsewhere = [place for place in in_a | in_b if in_a[place] != in_b[place]]
    if elsewhere:
        place = elsewhere[0]
        what = (
            f'norm layers: {in_a[place]} in {a.name}, {in_b[place]} in {b.name}; '
            f'in all {len(a.norms)}, {len(b.norms)}'
        )
        yield Finding(WARNING, place, what)
    of_a, of_b = a.traits(world), b.traits(world)
    found: dict[str, list] = {}
    for layer in [name for name in of_a if name in of_b]:
        for trait, value in of_a[layer].items():
            if value != of_b[layer][trait]:
                found.setdefault(trait, []).append((layer, value, of_b[layer][trait]))
    for trait, unequal in found.items():
        layer, value, other = unequal[0]
        what = f'{trait}: {value} with {a.name}, {other} with {b.name}'
        yield Finding(WARNING, layer, f'{what}; in {len(unequal)} norm layers')


def rates(a: Side, b: Side, world: int) -> Findings:
    """Kernels decay as convolutions do; all else of a norm learns alike on both sides."""
    found: Counter = Counter()
    for name in {**a.rates, **b.rates}:
        layer, _, tensor = name.rpartition('.')
        if layer in a.norms or layer in b.norms:
            found[tensor, a.rates.get(name), b.rates.get(name)] += 1
    for (tensor, *pair), count in found.items():
        is_kernel = tensor == 'spatial_weight'
        is_right = None in pair or pair[0].is_like(pair[1])
        told = []
        for side, rate in zip((a, b), pair, strict=True):
            if rate is None:
                continue
            told.append(f'{rate} with {side.name}')
            if is_kernel or None in pair:
                usual = side.usual_shrinkage(is_kernel)
                like = 'weight of a convolution' if is_kernel else 'bias of a norm'
                if not isclose(rate.shrinkage, usual):
                    told[-1] += f', where lr * decay of the {like} is {usual:.3g}'
                    is_right = False
        what = f'{"; ".join(told)}; in {count} norm layers'
        yield Finding(NOTE if is_right else WARNING, tensor, what)


def schedule(a: Side, b: Side, world: int) -> Findings:
    """The learning rate is for the images of a step, and is reached by a warm-up."""
    for side in a, b:
        images = side.cfg.train_dataloader.batch_size * world
        scaling = side.cfg.get('auto_scale_lr') or {}
        base = scaling.get('base_batch_size', images)
        if images != base and not scaling.get('enable'):
            what = (
                f'{side.name} has {images} images per step, and a learning rate for '
                f'{base}: enable=True scales it, base_batch_size={images} says it is for '
                'these'
            )
            yield Finding(REFUSAL, 'auto_scale_lr', what)
        warms_up = any(
            type_name(s) in _WARM_UPS and not s.get('begin')
            for s in param_schedulers(side.cfg)
        )
        if not warms_up and any(name.endswith('spatial_weight') for name in side.rates):
            what = f'{side.name} has no warm-up, and the first steps move kernels far'
            yield Finding(WARNING, 'param_scheduler', what)


def precautions(a: Side, b: Side, world: int) -> Findings:
    """Seeds, hooks that look after a run, and statistics of a node."""
    for side in a, b:
        if (side.cfg.get('randomness') or {}).get('seed') is None:
            what = f'{side.name} has no seed, so it starts with other weights each time'
            yield Finding(WARNING, 'randomness.seed', what)
        merged = [side.merges(layer, world) for layer in side.training_norms.values()]
        if (largest := max(merged, default=1)) > NODE:
            what = (
                f'{side.name} has statistics of {largest} processes: '
                f'sync_group_size={NODE} keeps them to a node'
            )
            yield Finding(WARNING, 'norm_cfg', what)
        holds = side.holds_statistics
        for hook, is_needed, what in (
            ('CheckInvalidLossHook', True, 'goes on with a loss that is not finite'),
            (
                'BroadcastBuffersHook',
                min(merged, default=world) < world,
                "is evaluated with each process's own statistics, of which one is saved",
            ),
            ('CheckpointLayoutHook', holds, 'takes the weights of any norm'),
            ('FeatureScaleHook', holds, 'takes features that grow with the image size'),
        ):
            if is_needed and hook not in side.hooks:
                yield Finding(WARNING, 'custom_hooks', f'{side.name} {what}: no {hook}')


def layouts(a: Side, b: Side, world: int) -> Findings:
    """Pre-trained weights are there, and of the norm that takes them."""
    for side in a, b:
        for path in side.absent:
            level = NOTE if '://' in path else WARNING
            what = f'{side.name} starts from it, and it is not on this machine'
            yield Finding(level, path, what)
        loads = [*pretrained_modules(side.model)]
        if side.load_from:
            loads.append(('', side.model, {'checkpoint': side.load_from}))
        for name, module, init_cfg in loads:
            found = norm_differences(module, pretrained_state(init_cfg))
            if not found:
                continue
            # With batch statistics, BatchNorm's weights are a start: each layer is it then.
            has_to_fit = side.holds_statistics or 'CheckpointLayoutHook' in side.hooks
            level = REFUSAL if has_to_fit or any(each.adds for each in found) else NOTE
            place = f'model.{name}' if name else 'model'
            what = (
                f'is of another norm than {len(found)} layers of {place} of {side.name}'
            )
            yield Finding(level, init_cfg['checkpoint'], f'{what}, as {found[0]}')


def silent_branches(a: Side, b: Side, world: int) -> Findings:
    """The same norm layers put out 0 at the start."""
    if a.absent or b.absent:
        return
    affine = 'weight', 'spatial_weight', 'bias'
    of_a, of_b = (
        {
            name
            for name, layer in side.norms.items()
            if not any(p.any() for n, p in layer.named_parameters() if n in affine)
        }
        for side in (a, b)
    )
    if one_sided := sorted(of_a ^ of_b):
        what = (
            f'norm layers that put out 0 at the start: {len(of_a)} of {a.name} and '
            f'{len(of_b)} of {b.name} (zero_init_residual=False for both)'
        )
        yield Finding(WARNING, one_sided[0], what)


def start_scales(a: Side, b: Side, world: int) -> Findings:
    """Features and logits are of a size at the start."""
    if a.absent or b.absent:
        what = 'features are not measured, for their weights are not on this machine'
        yield Finding(NOTE, 'scales', what)
        return
    try:
        of_a, of_b = a.scales, b.scales
    except Exception as error:  # whatever a model raises that wants a GPU
        what = f'features are not measured: {type(error).__name__}: {error}'
        yield Finding(WARNING, 'scales', what)
        return
    for where in [name for name in of_a if name in of_b]:
        pairs = [*zip(of_a[where], of_b[where], strict=False)]
        is_far = any(max(pair) > LIMIT * min(pair) for pair in pairs)
        level = WARNING if is_far else NOTE
        if not all(isfinite(scale) for pair in pairs for scale in pair):
            level = REFUSAL
        told = [
            f'{", ".join(f"{scale:.3g}" for scale in side.scales[where])} with {side.name}'
            for side in (a, b)
        ]
        what = 'standard deviation of each output at the start'
        yield Finding(level, where, f'{what}: {"; ".join(told)}')


CHECKS: tuple[Callable[[Side, Side, int], Findings], ...] = (
    config_keys,
    norm_layers,
    rates,
    schedule,
    precautions,
    layouts,
    silent_branches,
    start_scales,
)


def forecast_gates(side: Side, images: int) -> Findings:
    """Which gates will close, as ``images`` of the train loader pass the initial weights.

    A gate that closes does so in the first steps, in which weights hardly move. Layers
    without a gate are measured as if they had one.
    """
    if not side.training_norms:
        what = f'{side.name} holds all statistics, so gates play no part'
        yield Finding(NOTE, 'gates', what)
        return
    settings = deepcopy(side.cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    settings.pop('prefetch_factor', None)
    loader = Runner.build_dataloader(settings, seed=0)
    model: Any = revert_sync_batchnorm(deepcopy(side.model)).train()
    modules = dict(model.named_modules())
    layers = [modules[name] for name in side.training_norms]
    count = min(-(-images // settings.batch_size), len(loader))
    rows = []
    for data in track_iter_progress((islice(loader, count), count), file=sys.stderr):
        measurement = StepMeasurement(layers, torch.device('cpu'))
        with torch.no_grad():
            model(**model.data_preprocessor(data, True), mode='loss')
        rows.append(measurement.read()[0])
    start = ' with random weights' if side.absent else ''
    found = torch.stack(rows, 1).tolist()  # by layer, nan where it was not reached
    reached = closing = 0
    for (name, layer), row in zip(side.training_norms.items(), found, strict=True):
        values = [c for c in row if isfinite(c)]
        reached += bool(values)
        if not (closed := closed_steps(layer, values)):
            continue
        closing += 1
        what = (
            f'the gate of {side.name} closes at step {closed[0]}{start}, and is closed '
            f'in {len(closed)} of {STEPS} steps: c is {fmean(values):.3f}'
        )
        if has_gate(layer):
            yield Finding(WARNING, name, what)
        else:
            yield Finding(NOTE, name, f'if it had: {what}')
    what = f'{reached - closing} of {reached} gates of {side.name} stay open'
    yield Finding(NOTE, 'gates', f'{what}{start}, in {count} batches')


def closed_steps(layer: Any, values: Sequence[float]) -> list[int]:
    """The steps, from 1 to :data:`STEPS`, that end with the gate of ``layer`` closed.

    ``values`` are ``c`` of batch after batch, and what follows is taken to repeat them. A
    layer without a gate is supposed to have UBN's.
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
