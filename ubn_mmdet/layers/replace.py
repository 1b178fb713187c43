"""Puts another module in the place of one of a model's."""

from torch import nn


def replace_submodule(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where ``model`` has a submodule of that (dotted) name."""
    parent, _, attribute = name.rpartition('.')
    # By item: a container's children have names that are no attributes.
    model.get_submodule(parent)._modules[attribute] = new
