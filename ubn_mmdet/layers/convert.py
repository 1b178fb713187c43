"""Swaps the batch norms of any PyTorch model for members of the family."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from . import replacers
from .checks import check_choice
from .pipeline import PipelineNorm

FORWARDS = nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward
# timm's, whose forward applies their children to the result.
WITH_CHILDREN = 'BatchNormAct2d', 'SyncBatchNormAct'
NOT_4D = nn.BatchNorm1d, nn.LazyBatchNorm1d, nn.BatchNorm3d, nn.LazyBatchNorm3d


def convert_batchnorm(
    module: nn.Module,
    norm: str | type[nn.Module] = 'UBN',
    *,
    skip: Callable[[str, nn.Module], bool] | None = None,
    **settings: Any,
) -> nn.Module:
    """Replace every BatchNorm2d and SyncBatchNorm of a model, in place.

    Subclasses that leave ``forward`` alone count as what they are derived from, and those
    of ``_BatchNorm`` as 2D. timm's ``BatchNormAct2d`` is replaced, too: the new layer has
    the same activation.

    A converted model computes what it computed before: each new layer takes over the very
    parameters and buffers, ``eps``, ``momentum`` and the training flag, and its stages do
    nothing yet. (Of members that train with other statistics than BatchNorm's this holds
    in evaluation; of L2BN, which scales its samples, not at all. See docs/family.md.)
    Optimizers that hold the parameters stay valid; the new parameters of the stages
    have to be added to them. They need gradients unless the BatchNorm is frozen. A
    layer that occurs in several places is replaced by one layer. A BatchNorm2d becomes
    a layer that does not synchronise, a SyncBatchNorm one that does, over all ranks.
    Hooks stay with the old layers.

    Args:
        module: The model; nothing happens to layers of this family, and to BatchNorm of
            1D or 3D.
        norm: A member of the family, by its name or its class.
        skip: ``skip(name, layer)`` says which layers to leave alone, by the name in the
            model (the empty string for ``module`` itself).
        **settings: For the new layers' constructor, such as ``kernel_size=1``.

    Returns:
        The model; a new layer if ``module`` itself is a BatchNorm.

    Raises:
        ValueError: For an unknown ``norm``, a lazy layer before its first input, or another
            subclass with a ``forward`` of its own or a parametrization, which would be
            lost. Nothing is replaced then.
    """
    kind = _member(norm)
    places = [  # all of them: a layer may have several
        (name, layer)
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _BatchNorm)
        and not isinstance(layer, PipelineNorm)
        and not isinstance(layer, NOT_4D)
    ]
    left = {id(layer) for name, layer in places if skip and skip(name, layer)}
    found = [(name, layer) for name, layer in places if id(layer) not in left]
    for name, layer in found:
        if isinstance(layer, LazyModuleMixin):
            raise ValueError(
                f'{name or "the module"} is a {type(layer).__name__} that has not seen any '
                'input: run the model once, then convert it'
            )
        has_own_forward = type(layer).forward not in FORWARDS
        if is_parametrized(layer) or has_own_forward and not _applies_children(layer):
            raise ValueError(
                f'{name or "the module"} is a {type(layer).__name__}, which may do more '
                'than a BatchNorm; leave it out with skip='
            )
    if replacers.IN_PYTORCH.is_installed:
        replacers.install()  # timm may have been loaded since
    like = next(module.parameters(), None)  # for layers without any tensor
    converted = {id(layer): _convert(layer, kind, settings, like) for _, layer in found}
    for name, layer in found:
        if not name:
            return converted[id(layer)]
        replace_submodule(module, name, converted[id(layer)])
    return module


def replace_submodule(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where ``model`` has a submodule of that (dotted) name."""
    parent, _, attribute = name.rpartition('.')
    # By item: a container's children have names that are no attributes.
    model.get_submodule(parent)._modules[attribute] = new


def _member(norm: str | type[nn.Module]) -> type[PipelineNorm]:
    if isinstance(norm, type) and issubclass(norm, PipelineNorm):
        return norm
    members = {member.__name__: member for member in PipelineNorm.__subclasses__()}
    check_choice('norm', norm, sorted(members))
    return members[str(norm)]


def _applies_children(layer: nn.Module) -> bool:
    return type(layer).__name__ in WITH_CHILDREN


def _convert(
    layer: Any,
    kind: type[PipelineNorm],
    settings: dict[str, Any],
    default: torch.Tensor | None,
) -> PipelineNorm:
    """The new layer, on the device of the old one's tensors or of ``default``."""
    own_tensors = layer.weight, layer.running_mean, default
    like = next((tensor for tensor in own_tensors if tensor is not None), None)
    factory = {} if like is None else {'device': like.device, 'dtype': like.dtype}
    names = 'eps', 'momentum', 'affine', 'track_running_stats'
    taken = {name: getattr(layer, name) for name in names}
    taken['sync'] = isinstance(layer, nn.SyncBatchNorm)
    new = kind(layer.num_features, **(taken | factory | settings))
    frozen = layer.weight is not None and not layer.weight.requires_grad
    new.requires_grad_(not frozen)
    own = dict(layer.named_parameters(recurse=False))
    own |= dict(layer.named_buffers(recurse=False))
    state = dict(own)
    if layer.weight is not None and layer.bias is None:  # BatchNorm(bias=False)
        state['bias'] = torch.zeros_like(layer.weight)
        new.bias.requires_grad_(False)
    if state:
        new.load_state_dict(state)
    for name, tensor in own.items():
        setattr(new, name, tensor)
    new.train(layer.training)
    if _applies_children(layer):
        for name, child in layer.named_children():
            new.add_module(name, child)
        new.applied_after = tuple(name for name, _ in layer.named_children())
    return new
