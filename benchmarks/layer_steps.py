"""The norm layers that are compared, and a training step of each.

Here and in what this imports, of ``ubn_mmdet`` only public names are used:
``compare_commits`` runs it on the code of other commits.
"""

import torch
from torch import Tensor, nn

from ubn_mmdet import BNET, UBN

from .costs import count_launches, saved_bytes
from .timing import Step

Shape = tuple[int, int, int, int]
SHAPES = {
    'layer1, 2 images of 800x1333': (2, 64, 200, 336),
    'layer3, 2 images of 800x1333': (2, 256, 50, 84),
    'box head, 16 boxes': (16, 256, 14, 14),
    'layer4, 8 images of 160x160': (8, 512, 5, 5),
}
SMALL = (2, 64, 8, 8)  # for launches: a CPU computes larger inputs in parts
BN, BN_3X3 = 'BatchNorm', 'BatchNorm + depthwise 3x3'
UBN_1, UBN_3 = 'UBN k=1', 'UBN k=3'


def layers(channels: int) -> dict[str, nn.Module]:
    """What is compared: UBN, and what does the same work without UBN's stages."""
    return {
        BN: nn.BatchNorm2d(channels),
        UBN_1: UBN(channels, kernel_size=1),
        BN_3X3: nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        ),
        UBN_3: UBN(channels),
        'BNET': BNET(channels),
    }


def training_step(layer: nn.Module, x: Tensor) -> Step:
    """Forward and backward of a layer for an input ``(N, C, H, W)``, as in training."""
    x = x.detach().requires_grad_()
    upstream = torch.randn_like(x)

    def step() -> None:
        x.grad = None  # as without, each step would add to the gradients before
        layer.zero_grad(set_to_none=True)
        layer(x).backward(upstream)

    return step


def layer_steps(shape: Shape, device: torch.device) -> dict[str, Step]:
    """A training step of each of :func:`layers`, all for the same input."""
    torch.manual_seed(0)
    x = torch.randn(shape, device=device) + 1
    return {
        name: training_step(layer.to(device), x)
        for name, layer in layers(shape[1]).items()
    }


def layer_memory(shape: Shape, device: torch.device) -> dict[str, int]:
    """Bytes that each of :func:`layers` keeps for backward."""
    x = torch.randn(shape, device=device)
    return {
        name: saved_bytes(layer.to(device), x)
        for name, layer in layers(shape[1]).items()
    }


def layer_launches(device: torch.device) -> dict[str, int]:
    """Launches of a training step of each of :func:`layers`, for an input ``SMALL``."""
    return {
        name: count_launches(step, device)
        for name, step in layer_steps(SMALL, device).items()
    }
