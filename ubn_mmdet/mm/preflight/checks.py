"""The checks: functions of two sides and the number of processes that yield findings."""

from collections import Counter
from collections.abc import Callable, Iterator
from math import isclose, isfinite
from typing import Any

from ...records import differences
from ..feature_scale import LIMIT
from ..layout_hook import norm_differences, pretrained_modules, pretrained_state
from .finding import NOTE, REFUSAL, WARNING, Finding
from .side import TRAITS, Side

NODE = 8  # processes whose statistics published comparisons merge at most
_OF_NORMS = 'norm', 'norm_cfg', 'custom_imports'  # keys that say which norm it is
_WARM_UPS = 'LinearLR', 'ConstantLR'

Findings = Iterator[Finding]


def config_keys(a: Side, b: Side, world: int) -> Findings:
    """Everything that differs beside the norm."""
    for text in differences(b.content(), a.content()):
        key, _, values = text.partition(' ')
        if not set(key.split('.')) & set(_OF_NORMS):
            level = NOTE if key.endswith('init_cfg.checkpoint') else WARNING
            yield Finding(level, key, f'{b.name} has {values}')


def norm_layers(a: Side, b: Side, world: int) -> Findings:
    """Norm layers are in the same places, and alike in what every norm has."""
    if len(a.norms) != len(b.norms):
        first = min(a.norms.keys() ^ b.norms.keys())
        what = f'norm layers: {len(a.norms)} in {a.name}, {len(b.norms)} in {b.name}'
        yield Finding(WARNING, first, what)
    traits = a.traits(world), b.traits(world)
    for trait in TRAITS:
        pairs = {
            name: (traits[0][name][trait], traits[1][name][trait])
            for name in traits[0]
            if name in traits[1]
        }
        found = [name for name, (of_a, of_b) in pairs.items() if of_a != of_b]
        if found:
            of_a, of_b = pairs[found[0]]
            what = f'{trait}: {of_a} with {a.name}, {of_b} with {b.name}'
            yield Finding(WARNING, found[0], f'{what}; in {len(found)} norm layers')


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
            like = 'weight of a convolution' if is_kernel else 'bias of a norm'
            usual = side.kernel_shrinkage if is_kernel else side.bias_shrinkage
            if (is_kernel or None in pair) and not isclose(rate.shrinkage, usual):
                told[-1] += f', where lr * decay of the {like} is {usual:.3g}'
                is_right = False
        what = f'{"; ".join(told)}; in {count} norm layers'
        yield Finding(NOTE if is_right else WARNING, tensor, what)


def schedule(a: Side, b: Side, world: int) -> Findings:
    """The learning rate is for the images of a step, and is reached by a warm-up."""
    for side in a, b:
        images = side.batch_size * world
        scaling = side.cfg.get('auto_scale_lr') or {}
        base = scaling.get('base_batch_size', images)
        if images != base and not scaling.get('enable'):
            what = f'{side.name} has {images} images a step, and a learning rate for {base}'
            advice = (
                f'enable=True scales it, base_batch_size={images} says it is for these'
            )
            yield Finding(REFUSAL, 'auto_scale_lr', f'{what}: {advice}')
        schedulers = side.cfg.get('param_scheduler') or []
        schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
        warms_up = any(s.type in _WARM_UPS and not s.get('begin') for s in schedulers)
        if not warms_up and any(name.endswith('spatial_weight') for name in side.rates):
            what = f'{side.name} has no warm-up, and the first steps move kernels far'
            yield Finding(WARNING, 'param_scheduler', what)


def precautions(a: Side, b: Side, world: int) -> Findings:
    """Seeds, hooks that look after a run, and statistics of a node."""
    for side in a, b:
        if (side.cfg.get('randomness') or {}).get('seed') is None:
            what = f'{side.name} has no seed, so it starts with other weights each time'
            yield Finding(WARNING, 'randomness.seed', what)
        merged = [side.merges(layer, world) for layer in side.live.values()]
        if (largest := max(merged, default=1)) > NODE:
            what = f'{side.name} has statistics of {largest} processes'
            advice = f'sync_group_size={NODE} keeps them to a node'
            yield Finding(WARNING, 'norm_cfg', f'{what}: {advice}')
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
            # With live statistics, BatchNorm's weights are a start: each layer is it then.
            has_to_fit = side.holds_statistics or 'CheckpointLayoutHook' in side.hooks
            level = REFUSAL if has_to_fit or any(each.adds for each in found) else NOTE
            place = '.'.join(filter(None, ('model', name)))
            what = (
                f'is of another norm than {len(found)} layers of {place} of {side.name}'
            )
            yield Finding(level, init_cfg['checkpoint'], f'{what}, as {found[0]}')


def silent_branches(a: Side, b: Side, world: int) -> Findings:
    """The same norm layers put out 0 at the start."""
    if a.absent or b.absent:
        return
    silent = [
        {
            name
            for name, layer in side.norms.items()
            if not any(parameter.any() for parameter in _affine(layer))
        }
        for side in (a, b)
    ]
    if one_sided := sorted(silent[0] ^ silent[1]):
        counts = ' and '.join(
            f'{len(names)} of {side.name}'
            for names, side in zip(silent, (a, b), strict=True)
        )
        what = f'norm layers that put out 0 at the start: {counts}'
        advice = 'zero_init_residual=False for both'
        yield Finding(WARNING, one_sided[0], f'{what} ({advice})')


def _affine(layer: Any) -> list:
    names = 'weight', 'spatial_weight', 'bias'
    found = (getattr(layer, name, None) for name in names)
    return [parameter for parameter in found if parameter is not None]


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
