"""What a norm layer costs: the time of a training step, memory, launches.

Layers are timed interleaved. Weights and inputs are random.

    python -m benchmarks.layers
"""

from functools import partial

import torch
from torch import Tensor, nn

from ubn_mmdet import BNET, UBN

from .measuring import Step, count_launches, saved_bytes, time_in_turns
from .reporting import (
    Results,
    Rows,
    in_megabytes,
    parse_args,
    ratio_table,
    run_and_print,
    value_table,
)

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
RATIOS = (UBN_1, BN), (UBN_3, BN), (UBN_3, BN_3X3), ('BNET', BN)


def with_depthwise(layer: nn.Module, channels: int) -> nn.Module:
    """What does a UBN's work with a 3×3 kernel, but for its statistics."""
    return nn.Sequential(
        layer, nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    )


def layers(channels: int) -> dict[str, nn.Module]:
    """What is compared: UBN, and what does the same work without UBN's stages."""
    return {
        BN: nn.BatchNorm2d(channels),
        UBN_1: UBN(channels, kernel_size=1),
        BN_3X3: with_depthwise(nn.BatchNorm2d(channels), channels),
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


def measure(results: Results, turns: int, device: torch.device) -> None:
    """Seconds of each turn, bytes kept for backward, and launches of a step."""

    def time(shape: Shape) -> dict[str, list[float]]:
        return time_in_turns(layer_steps(shape, device), turns, device)

    for name, shape in SHAPES.items():
        case = f'{name}: {shape}'
        results.measure('seconds', case, partial(time, shape))
        results.measure('saved bytes', case, partial(layer_memory, shape, device))
    results.measure('launches', str(SMALL), partial(layer_launches, device))


def tables(rows: Rows) -> dict[str, str]:
    """The results as Markdown tables."""
    saved = in_megabytes(rows['saved bytes'])
    return {
        'step': ratio_table(rows['seconds'], RATIOS, BN),
        'memory': value_table('kept for backward, MB', saved, '.2f'),
        'launches': value_table('launches of a step', rows['launches']),
    }


if __name__ == '__main__':
    run_and_print(parse_args(__doc__, 'layers', turns=31), measure, tables)
