"""Exact mappings between the state-dict layouts of BatchNorm, its family and UBN's authors.

Pure functions on state dicts; what cannot be mapped exactly raises, nothing is lost.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..layers.pipeline import BATCHNORM, Stages
from ..layers.stages.affine import AUTHORS_GATE

StateDict = dict[str, Tensor]

# The authors' layer, without weight and bias of its own; * may also be (1, C, 1, 1).
AUTHORS_KEYS = {
    'center_weight': 'centering_weight',  # *
    'scale_weight': 'scaling_weight',  # *
    'scale_bias': 'scaling_bias',  # *
    'bnconv.weight': None,  # (C, 1, k, k)
    'bnconv.bias': None,  # (C,)
}


def authors_to_ubn(state: StateDict) -> StateDict:
    """From the layout of the UBN authors' fork, exactly.

    The kernel, ``weight`` at the centre and ``spatial_weight`` around it, is
    ``sigmoid(1) * W``, and ``bias = sigmoid(1) * b``. Their condensation
    is not in their checkpoints: it starts at 1 again.

    Raises:
        ValueError: If no layer has the layout, or one has only a part of it.
    """
    suffix = '.bnconv.weight'
    prefixes = [key.removesuffix(suffix) for key in state if key.endswith(suffix)]
    if not prefixes:
        raise ValueError("no layer has the authors' keys (bnconv.weight, ...)")

    def convert(norm: StateDict) -> StateDict:
        if lacking := [key for key in AUTHORS_KEYS if key not in norm]:
            raise ValueError(f'lacks {", ".join(lacking)}')
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


def to_batchnorm(state: StateDict, stages: Stages) -> StateDict:
    """To BatchNorm, where a layer in evaluation is one.

    That is, where it neither centres, nor scales by its input, nor looks at neighbours.
    Where a layer has no keys of its own, each BatchNorm in ``state`` counts as one.
    A constant scaling gate and the kernel's centre tap become part of weight and bias.

    Args:
        state: A model's.
        stages: Of its layers, such as ``UBN(1).stages``. Those whose tensors are not
            there count as switched off, and the size of a kernel is the file's.

    Raises:
        ValueError: If a layer depends on its input in one of these ways.
    """
    own = [entry.name for entry in stages.entries()]

    def convert(norm: StateDict) -> StateDict:
        stages.affine.upgrade(norm, '')  # the file may be an old one
        folded = stages.as_batchnorm(norm)
        if 'spatial_weight' in folded:
            raise ValueError('spatial_weight is not zero off the centre')
        return folded

    prefixes = norm_prefixes(state)
    if own:  # else its layers have the very keys of a BatchNorm
        prefixes = [p for p in prefixes if any(f'{p}.{key}' in state for key in own)]
    converted = _convert(state, prefixes, (*BATCHNORM, *own), convert)
    if left := [key for key in converted if key.rpartition('.')[2] in own]:
        raise ValueError(
            f'{left[0]}: its layer lacks {" or ".join(BATCHNORM[:-1])}, so it is no '
            'BatchNorm'
        )
    return converted


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
    return [p for p in prefixes if all(f'{p}.{key}' in state for key in BATCHNORM[:-1])]


def _convert(
    state: StateDict,
    prefixes: list[str],
    keys: tuple[str, ...],
    convert: Callable[[StateDict], StateDict],
) -> StateDict:
    """Replace each layer's keys by what ``convert`` makes of them."""
    result = dict(state)
    for prefix in prefixes:
        there = [key for key in keys if f'{prefix}.{key}' in state]
        norm = {key: result.pop(f'{prefix}.{key}') for key in there}
        try:
            converted = convert(norm)
        except ValueError as error:
            raise ValueError(f'{prefix}: {error}') from None
        result |= {f'{prefix}.{key}': value for key, value in converted.items()}
    return result
