"""What synchronised statistics cost: an alpha-beta model, and a measurement."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..layers import UBN
from ..markdown import markdown_table
from ..ops.distributed import merge_statistics
from .timing import time_interleaved

FLOAT32, FLOAT64 = 4, 8


class Network(NamedTuple):
    """A message of ``m`` bytes between two ranks takes ``latency + m / bandwidth``.

    Attributes:
        latency: alpha, seconds.
        bandwidth: 1/beta, bytes a second.
    """

    latency: float
    bandwidth: float


WITHIN_NODE = Network(latency=3e-6, bandwidth=200e9)
ACROSS_NODES = Network(latency=6e-6, bandwidth=25e9)
GPUS_A_NODE = 8


class Cost(NamedTuple):
    """Of one collective on one rank: bytes received, seconds."""

    received: float
    seconds: float


def all_gather(message: int, ranks: int, network: Network) -> Cost:
    """A ring: in each of ``p - 1`` steps every rank passes on one message."""
    steps = ranks - 1
    seconds = steps * (network.latency + message / network.bandwidth)
    return Cost(steps * message, seconds)


def all_reduce(message: int, ranks: int, network: Network) -> Cost:
    """The faster of a ring (``2(p-1)`` pieces) and a tree (twice its height)."""
    ring = 2 * (ranks - 1) * (network.latency + message / ranks / network.bandwidth)
    height = math.ceil(math.log2(ranks))
    tree = 2 * height * (network.latency + message / network.bandwidth)
    return Cost(2 * message * (ranks - 1) / ranks, min(ring, tree))


def resnet50_channels() -> list[int]:
    """Channels of the norm layers of a ResNet-50, stem to end."""
    channels = [64]
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        channels += [width, width, 4 * width] * blocks + [4 * width]
    return channels


# Numbers that a rank sends in forward, by channels: two statistics and the element count;
# UBN also what the condensation follows from, 2 numbers or, pooled, C + 2.
FORWARD_NUMBERS: dict[str, Callable[[int], int]] = {
    'SyncBN': lambda c: 2 * c + 1,
    'UBN': lambda c: 2 * c + 3,
    'UBN, pooled': lambda c: 3 * c + 3,
}


def forward_cost(channels: int, ranks: int, layer: str, network: Network) -> Cost:
    """Of one layer: SyncBatchNorm gathers float32, UBN adds float64 up."""
    numbers = FORWARD_NUMBERS[layer](channels)
    if layer == 'SyncBN':
        return all_gather(numbers * FLOAT32, ranks, network)
    return all_reduce(numbers * FLOAT64, ranks, network)


def step_cost(channels: list[int], ranks: int, layer: str) -> Cost:
    """Forward and backward of all layers of one training step.

    Args:
        channels: Of each layer.
        ranks: Ranks whose statistics are merged.
        layer: One of ``FORWARD_NUMBERS``.
    """
    network = WITHIN_NODE if ranks <= GPUS_A_NODE else ACROSS_NODES
    costs = []
    for c in channels:
        costs.append(forward_cost(c, ranks, layer, network))
        costs.append(all_reduce(2 * c * FLOAT32, ranks, network))
    return Cost(sum(c.received for c in costs), sum(c.seconds for c in costs))


def model_table(sizes: tuple[int, ...] = (8, 64, 512, 4096)) -> str:
    """A Markdown table of the modelled cost of a ResNet-50's 53 layers."""
    channels = resnet50_channels()
    layers = len(channels)
    rows = []
    for ranks in sizes:
        for name in FORWARD_NUMBERS:
            cost = step_cost(channels, ranks, name)
            rows.append(
                [
                    name,
                    ranks,
                    f'{cost.received / layers / 1e3:.1f} kB',
                    f'{cost.received / 1e6:.2f} MB',
                    f'{1e6 * cost.seconds / layers:.0f} µs',
                    f'{1e3 * cost.seconds:.2f} ms',
                ]
            )
    header = [
        'layer',
        'GPUs',
        'received a layer',
        'a step',
        'latency a layer',
        'a step',
    ]
    return markdown_table(header, rows)


def measure_layers(shape: tuple[int, ...], repeats: int) -> dict[str, list[float]]:
    """Seconds of forward and backward with merged and with local statistics.

    To be called by every rank of an initialised process group.
    """
    x = torch.randn(shape).requires_grad_()
    upstream = torch.randn(shape)
    layers = {'merged': UBN(shape[1]), 'local': UBN(shape[1], sync=False)}

    def run(layer: UBN) -> None:
        dist.barrier()  # else one rank's lead is counted as the other's cost
        layer(x).backward(upstream)

    runs = {name: lambda layer=layer: run(layer) for name, layer in layers.items()}
    return time_interleaved(runs, repeats)


def measure_merges(channels: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of merging the statistics of a layer forward: UBN's way, SyncBatchNorm's.

    To be called by every rank of an initialised process group.
    """
    mean, var = torch.randn(channels), torch.rand(channels)
    summary, group = torch.rand(2), dist.group.WORLD

    def run(merge: Callable) -> None:
        dist.barrier()
        with torch.no_grad():
            merge(mean, var, 100, summary, group)

    runs = {
        'reduced': lambda: run(merge_statistics),
        'gathered': lambda: run(gather_statistics),
    }
    return time_interleaved(runs, repeats)


def gather_statistics(
    mean: Tensor, var: Tensor, count: int, summary: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``merge_statistics`` computes, by gathering every rank's numbers in float32."""
    own = torch.cat([mean, var, summary, mean.new_tensor([count])])
    numbers = own.new_empty(dist.get_world_size(group), len(own))
    dist.all_gather_into_tensor(numbers.view(-1), own, group=group)
    means, variances, summaries, counts = numbers.split(
        [len(mean), len(var), len(summary), 1], dim=1
    )
    total = counts.sum()
    shares = counts / total
    merged = (shares * means).sum(0)
    within = (shares * (variances + (means - merged).square())).sum(0)
    return merged, within, total, summaries.sum(0)
