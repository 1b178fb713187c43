"""Convolutions that do not see the padding of a batch (docs/compatibility.md)."""

from torch import nn

from ..ops.padding import valid_part


def hide_padding(model: nn.Module) -> None:
    """Let the convolutions of a model find zeros where a batch is padded.

    That is what they find beyond the border of an image that is not padded. Norm layers
    of this package write zeros there anyway; pooling, and convolutions with a bias and no
    norm after them, do not. Nothing changes except within
    :func:`~ubn_mmdet.padded_images`. A second call has no effect.

    Args:
        model: All ``nn.Conv2d`` in it with a kernel larger than 1 x 1 get a hook.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            if not hides_padding(module):
                module.register_forward_pre_hook(_zero_padding, with_kwargs=True)


def hides_padding(model: nn.Module) -> bool:
    """Whether a convolution of ``model`` has the hook of :func:`hide_padding`."""
    return any(_zero_padding in m._forward_pre_hooks.values() for m in model.modules())


def _zero_padding(module: nn.Module, args: tuple, named: dict) -> tuple | None:
    first = next(iter(named), None)  # the name of the input, if it has one
    x = args[0] if args else named[first]
    if x.dim() != 4:  # a single image is not padded
        return None
    valid = valid_part(module, x)
    if valid is None:
        return None
    if args:
        return (valid.fill(x), *args[1:]), named
    return (), named | {first: valid.fill(x)}
