"""Exact mappings between the state-dict layouts of BatchNorm, UBN and UBN's authors.

Pure functions on state dicts; what cannot be mapped exactly raises, nothing is lost.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..layers.pipeline import Stages
from ..layers.stages import (
    Centering,
    ChannelAffine,
    DepthwiseAffine,
    Entry,
    GatedStatistics,
    NormalizedScaling,
)
from ..layers.stages.affine import AUTHORS_GATE

StateDict = dict[str, Tensor]

BATCHNORM_KEYS = ('weight', 'bias', 'running_mean', 'running_var')


def _own_entries(kernel_size: int = 3) -> list[Entry]:
    """What a UBN with every stage has, beside BatchNorm's."""
    kernel = DepthwiseAffine(kernel_size) if kernel_size > 1 else ChannelAffine()
    stages = Stages(Centering(), GatedStatistics(), NormalizedScaling(), kernel)
    return stages.entries()


OWN_KEYS = tuple(entry.name for entry in _own_entries())
# The authors' layer, without weight and bias of its own; * may also be (1, C, 1, 1).
AUTHORS_KEYS = {
    'center_weight': 'centering_weight',  # *
    'scale_weight': 'scaling_weight',  # *
    'scale_bias': 'scaling_bias',  # *
    'bnconv.weight': None,  # (C, 1, k, k)
    'bnconv.bias': None,  # (C,)
}


class ConversionError(ValueError):
    """The state dict cannot be converted exactly."""


def batchnorm_to_ubn(state: StateDict, kernel_size: int = 3) -> StateDict:
    """Give every BatchNorm the keys of a UBN whose stages do nothing yet.

    UBN layers load a BatchNorm state as it is; this is for whoever reads the file.

    Raises:
        ConversionError: If ``kernel_size`` is not a positive odd number.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConversionError(
            f'kernel_size must be positive and odd, got {kernel_size}'
        )

    def convert(norm: StateDict) -> StateDict:
        weight = norm['weight']
        return norm | {
            entry.name: weight.new_full(entry.shape(len(weight)), entry.neutral)
            for entry in _own_entries(kernel_size)
        }

    unconverted = [p for p in norm_prefixes(state) if not _has_any(state, p, OWN_KEYS)]
    return _convert(
        state, unconverted, (*BATCHNORM_KEYS, 'num_batches_tracked'), convert
    )


def authors_to_ubn(state: StateDict) -> StateDict:
    """From the layout of the UBN authors' fork, exactly.

    ``weight*delta + spatial_weight = sigmoid(1) * W``, ``bias = sigmoid(1) * b``. Their
    condensation is not in their checkpoints: it starts at 1 again.

    Raises:
        ConversionError: If no layer has the layout, or one has only a part of it.
    """
    suffix = '.bnconv.weight'
    prefixes = [key.removesuffix(suffix) for key in state if key.endswith(suffix)]
    if not prefixes:
        raise ConversionError("no layer has the authors' keys (bnconv.weight, ...)")

    def convert(norm: StateDict) -> StateDict:
        if lacking := [key for key in AUTHORS_KEYS if key not in norm]:
            raise ConversionError(f'lacks {", ".join(lacking)}')
        kernel = AUTHORS_GATE * norm.pop('bnconv.weight').squeeze(1)
        centre = kernel.shape[-1] // 2
        weight = kernel[:, centre, centre].clone()
        kernel[:, centre, centre] = 0
        result = {'weight': weight, 'bias': AUTHORS_GATE * norm.pop('bnconv.bias')}
        if kernel.shape[-1] > 1:
            result['spatial_weight'] = kernel
        for theirs, ours in AUTHORS_KEYS.items():
            if ours:
                result[ours] = norm.pop(theirs).flatten()
        return result | norm | {'condensation': torch.ones_like(weight[0])}

    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    return _convert(state, prefixes, (*AUTHORS_KEYS, *statistics), convert)


def ubn_to_batchnorm(state: StateDict) -> StateDict:
    """To BatchNorm, where a UBN in evaluation is one.

    That is, where it neither centres, nor scales by its input, nor looks at neighbours.
    A constant scaling gate and the kernel's centre tap become part of weight and bias.

    Raises:
        ConversionError: If a layer depends on its input in one of these ways.
    """
    prefixes = [p for p in norm_prefixes(state) if _has_any(state, p, OWN_KEYS)]

    def convert(norm: StateDict) -> StateDict:
        own = {key: norm.pop(key) for key in OWN_KEYS if key in norm}
        for key in ('centering_weight', 'scaling_weight'):
            if key in own and own[key].any():
                raise ConversionError(f'{key} is not zero')
        weight, bias = norm['weight'], norm['bias']
        if 'spatial_weight' in own:
            kernel = own['spatial_weight'].clone()
            centre = kernel.shape[-1] // 2
            weight = weight + kernel[:, centre, centre]
            kernel[:, centre, centre] = 0
            if kernel.any():
                raise ConversionError('spatial_weight is not zero off the centre')
        if 'scaling_bias' in own:
            gate = torch.sigmoid(own['scaling_bias']) / AUTHORS_GATE
            weight, bias = gate * weight, gate * bias
        return norm | {'weight': weight, 'bias': bias}

    keys = (*BATCHNORM_KEYS, 'num_batches_tracked', *OWN_KEYS)
    return _convert(state, prefixes, keys, convert)


def torchvision_to_backbone(state: StateDict) -> tuple[StateDict, list[str]]:
    """A torchvision-style ResNet as the backbone of a detector.

    Returns:
        The state, and the keys that have no place there: those of the classifier.
    """
    unplaced = [key for key in state if key.split('.')[0] == 'fc']
    kept = {key: value for key, value in state.items() if key not in unplaced}
    return {f'backbone.{key}': value for key, value in kept.items()}, unplaced


def norm_prefixes(state: StateDict) -> list[str]:
    """Names of the layers with the keys of a BatchNorm."""
    suffix = '.running_var'
    prefixes = [key.removesuffix(suffix) for key in state if key.endswith(suffix)]
    return [p for p in prefixes if all(f'{p}.{key}' in state for key in BATCHNORM_KEYS)]


def _has_any(state: StateDict, prefix: str, keys: tuple[str, ...]) -> bool:
    return any(f'{prefix}.{key}' in state for key in keys)


def _convert(
    state: StateDict,
    prefixes: list[str],
    keys: tuple[str, ...],
    convert: Callable[[StateDict], StateDict],
) -> StateDict:
    """Replace each layer's keys by what ``convert`` makes of them, in their place."""
    owner = {f'{p}.{key}': p for p in prefixes for key in keys}
    result, done = {}, set()
    for key, value in state.items():
        prefix = owner.get(key)
        if prefix is None:
            result[key] = value
        elif prefix not in done:
            done.add(prefix)
            norm = {k: state[f'{prefix}.{k}'] for k in keys if f'{prefix}.{k}' in state}
            try:
                converted = convert(norm)
            except ConversionError as error:
                raise ConversionError(f'{prefix}: {error}') from None
            result |= {f'{prefix}.{k}': v for k, v in converted.items()}
    return result
