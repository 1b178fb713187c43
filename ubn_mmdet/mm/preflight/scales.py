"""How large features and logits are at the start."""

from copy import deepcopy
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

SIZE = 128  # of the generated images, in pixels
IMAGES = 2


@torch.no_grad()
def output_scales(model: nn.Module) -> dict[str, list[float]]:
    """The standard deviations of what backbone, neck and heads put out.

    Args:
        model: A detector or classifier, in the mode that it trains in. It stays as it is.

    Returns:
        By the name of the component, a number for each tensor: of a level, or of logits
        and boxes.
    """
    model = revert_sync_batchnorm(deepcopy(model))
    outputs: dict[str, object] = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        is_head = kind.endswith('Head') and not kind.endswith('RoIHead')
        if is_head or name in ('backbone', 'neck'):
            module.register_forward_hook(
                lambda module, args, output, name=name: outputs.update({name: output})
            )
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(IMAGES, 3, SIZE // 16, SIZE // 16, generator=generator)
    images = interpolate(small, (SIZE, SIZE), mode='bilinear')  # smooth, as photographs
    result = model(images, _samples(model), mode='tensor')
    if hasattr(model, 'bbox_head'):  # a one-stage detector calls its forward past hooks
        outputs.setdefault('bbox_head', result)
    return {
        name: [
            float(leaf.std())
            for leaf in tree_leaves(output)
            if isinstance(leaf, Tensor) and leaf.numel() > 1
        ]
        for name, output in outputs.items()
    }


def _samples(model: Any) -> list | None:
    """What a detector asks of images, and a classifier does not."""
    if hasattr(model, 'head'):
        return None
    from ..deploy import example  # imports the toolbox for detection

    return [example(model, (SIZE, SIZE))[1] for _ in range(IMAGES)]
