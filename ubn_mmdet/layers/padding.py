"""Convolutions and pooling that do not see a batch's padding (docs/compatibility.md)."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..ops.padding import valid_part

AVERAGES = nn.AvgPool2d, nn.AdaptiveAvgPool2d  # subclasses may pad by themselves


def hide_padding(model: nn.Module) -> None:
    """Let convolutions and pooling of a model treat the padding of a batch as a border.

    Convolutions find zeros there, as beyond the border of an image that is not padded, and
    pooling takes the image alone. Norm layers of this package write zeros there anyway; a
    convolution with a bias and no norm after it does not. Nothing changes except within
    :func:`~ubn_mmdet.padded_images`. A second call has no effect.

    Args:
        model: All ``nn.Conv2d`` in it with a kernel larger than 1 x 1 get a hook, and all
            ``nn.MaxPool2d``, ``nn.AvgPool2d`` and ``nn.AdaptiveAvgPool2d``. Of adaptive
            pooling only that to 1 x 1 leaves padding out.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            if _zero_padding not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_zero_padding, with_kwargs=True)
        if isinstance(module, nn.MaxPool2d) or type(module) in AVERAGES:
            if _pool_image not in module._forward_hooks.values():
                module.register_forward_hook(_pool_image, prepend=True)


def hides_padding(model: nn.Module) -> bool:
    """Whether a part of ``model`` has a hook of :func:`hide_padding`."""
    return any(
        _zero_padding in module._forward_pre_hooks.values()
        or _pool_image in module._forward_hooks.values()
        for module in model.modules()
    )


def announces_padding(detector: nn.Module) -> bool:
    """Whether its data preprocessor says what of a batch is padding (PaddingAware)."""
    preprocessor = getattr(detector, 'data_preprocessor', None)
    return getattr(preprocessor, 'announces_padding', False)


def leaves_padding_out(model: nn.Module) -> bool:
    """Whether a model, or a part of one, does not see the padding of its batches."""
    return hides_padding(model) or any(map(announces_padding, model.modules()))


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


def _pool_image(module: Any, args: tuple, y: Any) -> Tensor | None:
    """What pooling makes of the valid part alone, with zeros where there is none of it."""
    # Not if the input has a name, or if MaxPool2d returns indices.
    if not args or not isinstance(y, Tensor) or y.dim() != 4:
        return None
    x = args[0]
    valid = valid_part(module, x) if y.is_floating_point() else None
    if valid is None:
        return None
    if isinstance(module, nn.MaxPool2d):
        # where() keeps the memory format.
        y = module.forward(x.where(valid.mask, x.new_full((), -math.inf)))
        return y.where(y != -math.inf, y.new_zeros(()))
    y = module.forward(valid.fill(x))
    if _counts_padding(module, y):
        return y
    share = module.forward(valid.mask.to(y.dtype))  # of each window
    return y / share.where(share > 0, 1)


def _counts_padding(module: Any, y: Tensor) -> bool:
    """Whether average pooling to ``y`` divides by more than the image in a window."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return y.shape[2:] != (1, 1)
    padding = module.padding
    pads = any(padding) if isinstance(padding, Sequence) else bool(padding)
    # Then it does so at the border of an image that is alone, too.
    return bool(module.count_include_pad and pads or module.divisor_override)
