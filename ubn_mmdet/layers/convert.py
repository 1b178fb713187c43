"""Swaps the batch norms of any PyTorch model for members of the family."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_choice
from .pipeline import PipelineNorm
from .replace import replace_submodule

CONVERTED = nn.BatchNorm2d, nn.SyncBatchNorm
NOT_4D = nn.BatchNorm1d, nn.BatchNorm3d


def convert_batchnorm(
    module: nn.Module,
    norm: str | type[nn.Module] = 'UBN',
    *,
    skip: Callable[[str, nn.Module], bool] | None = None,
    **settings: Any,
) -> nn.Module:
    """Replace every BatchNorm2d and SyncBatchNorm of a model, in place.

    A converted model computes what it computed before: each new layer takes over the very
    parameters and buffers, ``eps``, ``momentum`` and the training flag, and its stages do
    nothing yet. (Of members that train with other statistics than BatchNorm's this holds
    in evaluation; see docs/family.md.) Optimizers that hold the parameters stay valid; the
    new parameters of the stages have to be added to them. They need gradients unless the
    BatchNorm is frozen. A layer that occurs in several places is replaced by one layer. A
    BatchNorm2d becomes a layer that does not synchronise, a SyncBatchNorm one that does,
    over all ranks. Hooks stay behind with the old layers.

    Args:
        module: The model; nothing happens to layers of this family, BatchNorm1d and
            BatchNorm3d.
        norm: A member of the family, by its name or its class.
        skip: ``skip(name, layer)`` says which layers to leave alone, by the name in the
            model (the empty string for ``module`` itself).
        **settings: For the new layers' constructor, such as ``kernel_size=1``.

    Returns:
        The model; a new layer if ``module`` itself is a BatchNorm.

    Raises:
        ValueError: For an unknown ``norm``, or for a layer that is more than a BatchNorm:
            a subclass, whose additions would be lost. Nothing is replaced then.
    """
    kind = _member(norm)
    places = [  # all of them: a layer may have several
        (name, layer)
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _BatchNorm)
        and not isinstance(layer, PipelineNorm)
        and type(layer) not in NOT_4D
    ]
    left = {id(layer) for name, layer in places if skip and skip(name, layer)}
    found = [(name, layer) for name, layer in places if id(layer) not in left]
    for name, layer in found:
        if type(layer) not in CONVERTED:
            raise ValueError(
                f'{name or "the module"} is a {type(layer).__name__}, which does more '
                'than a BatchNorm; leave it out with skip='
            )
    converted = {id(layer): _convert(layer, kind, settings) for _, layer in found}
    for name, layer in found:
        if not name:
            return converted[id(layer)]
        replace_submodule(module, name, converted[id(layer)])
    return module


def _member(norm: str | type[nn.Module]) -> type[nn.Module]:
    members = {member.__name__: member for member in PipelineNorm.__subclasses__()}
    if isinstance(norm, type) and issubclass(norm, PipelineNorm):
        return norm
    check_choice('norm', norm, sorted(members))
    return members[str(norm)]


def _convert(layer: Any, kind: type[nn.Module], settings: dict[str, Any]) -> nn.Module:
    like = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    factory = {} if like is None else {'device': like.device, 'dtype': like.dtype}
    new = kind(
        layer.num_features,
        **{
            'eps': layer.eps,
            'momentum': layer.momentum,
            'affine': layer.affine,
            'track_running_stats': layer.track_running_stats,
            'sync': isinstance(layer, nn.SyncBatchNorm),
            **factory,
            **settings,
        },
    )
    frozen = layer.weight is not None and not layer.weight.requires_grad
    new.requires_grad_(not frozen)
    state = layer.state_dict()
    if layer.weight is not None and layer.bias is None:  # BatchNorm(bias=False)
        state['bias'] = torch.zeros_like(layer.weight)
        new.bias.requires_grad_(False)
    new.load_state_dict(state)
    for name, parameter in layer.named_parameters():
        setattr(new, name, parameter)
    for name, buffer in layer.named_buffers():
        setattr(new, name, buffer)
    return new.train(layer.training)
