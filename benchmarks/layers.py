"""What a norm layer costs: the time of a training step, memory, launches.

Layers are timed interleaved. Weights and inputs are random.

    python -m benchmarks.layers
"""

import torch
from torch import nn

from ubn_mmdet import measuring
from ubn_mmdet.measuring import BN, OURS, UBN_1, UBN_3, Norm

from . import reporting

Shape = tuple[int, int, int, int]
SHAPES = {
    'layer1, 2 images of 800x1333': (2, 64, 200, 336),
    'layer3, 2 images of 800x1333': (2, 256, 50, 84),
    'box head, 16 boxes': (16, 256, 14, 14),
    'layer4, 8 images of 160x160': (8, 512, 5, 5),
}
SMALL = (2, 64, 8, 8)  # for launches: a CPU computes larger inputs in parts
BN_3X3 = 'BatchNorm + depthwise 3x3'
RATIOS = (UBN_1, BN), (UBN_3, BN), (UBN_3, BN_3X3), ('BNET', BN)


def batchnorm_3x3(channels: int) -> nn.Module:
    """What does a UBN's work with a 3×3 kernel, but for its statistics."""
    kernels = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return nn.Sequential(nn.BatchNorm2d(channels), kernels)


THEIRS: dict[str, Norm] = {BN: nn.BatchNorm2d, BN_3X3: batchnorm_3x3}


def layer_memory(shape: Shape, device: torch.device) -> dict[str, int]:
    """Bytes that a layer of each norm keeps for backward."""
    x = torch.randn(shape, device=device)
    return {
        name: measuring.saved_bytes(norm(shape[1]).to(device), x)
        for name, norm in (THEIRS | OURS).items()
    }


def layer_launches(device: torch.device) -> dict[str, int]:
    """Launches of a training step of a layer of each norm, for an input ``SMALL``."""
    steps = measuring.layer_steps(torch.randn(SMALL, device=device), THEIRS)
    return {n: measuring.count_launches(step, device) for n, step in steps.items()}


def measure(results: reporting.Results, turns: int, device: torch.device) -> None:
    """Seconds of each turn, bytes that are kept for backward, launches of a step."""

    def time(shape: Shape) -> dict[str, list[float]]:
        x = torch.randn(shape, device=device) + 1
        return measuring.time_in_turns(measuring.layer_steps(x, THEIRS), turns)

    for name, shape in SHAPES.items():
        case = f'{name}: {shape}'
        results.measure('seconds', case, time, shape)
        results.measure('saved bytes', case, layer_memory, shape, device)
    results.measure('launches', str(SMALL), layer_launches, device)


def tables(rows: reporting.Rows) -> dict[str, str]:
    """The results as Markdown tables."""
    title, saved = 'kept for backward, MB', rows['saved bytes']
    return {
        'step': reporting.ratio_table(rows['seconds'], RATIOS, BN),
        'memory': reporting.value_table(title, saved, '.2f', unit=1e6),
        'launches': reporting.value_table('launches of a step', rows['launches']),
    }


if __name__ == '__main__':
    reporting.run(reporting.parse_args('layers', __doc__), measure, tables)
