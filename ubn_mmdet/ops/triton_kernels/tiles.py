"""How the passes are divided among programs, and where an element is in memory."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..memory import memory_format

PROGRAMS = 2048  # enough to fill a large GPU several times over
LONGEST = 32  # tiles that one program may go through


class Tiles(NamedTuple):
    """The division of an ``(N, C, H, W)`` tensor.

    A program takes ``length`` positions of ``channels`` maps, ``positions`` of them at a
    time; ``splits`` programs share a map.
    """

    last: bool  # channels_last
    positions: int
    channels: int
    length: int
    splits: int
    programs: int


def divide(x: Tensor, elements: int = 1024, samples: int = 1) -> Tiles:
    """The division of ``x``, which is dense in either memory format.

    Args:
        x: ``(N, C, H, W)``, not empty.
        elements: Of ``x`` in a tile, about; a power of two.
        samples: How many samples a program takes at once.
    """
    n, c, h, w = x.shape
    m = h * w
    elements = elements // samples
    last = memory_format(x) is torch.channels_last
    # Neighbours in memory first.
    if last:
        channels = min(triton.next_power_of_2(c), 64)
        positions = min(triton.next_power_of_2(m), max(elements // channels, 1))
    else:
        positions = min(triton.next_power_of_2(m), elements)
        channels = min(triton.next_power_of_2(c), max(elements // positions, 1))
    columns = triton.cdiv(n, samples) * triton.cdiv(c, channels)
    tiles = triton.cdiv(m, positions)
    length = min(max(columns * tiles // PROGRAMS, 1), LONGEST, tiles) * positions
    splits = triton.cdiv(m, length)
    return Tiles(last, positions, channels, length, splits, columns * splits)


@triton.jit
def place(C, M, length, LAST: tl.constexpr, CHANNELS: tl.constexpr):
    """Of this program: block of samples, block of channels, part of the positions.

    In the order of memory: programs that run side by side then share a cache.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(C, CHANNELS)
    splits = tl.cdiv(M, length)
    if LAST:
        sample = program // (blocks * splits)
        split = program // blocks % splits
        block = program % blocks
    else:
        sample = program // (blocks * splits)
        block = program // splits % blocks
        split = program % splits
    return sample, block, split


@triton.jit
def element(channel, position, C, M, LAST: tl.constexpr):
    """Where an element is, counted from the start of its sample."""
    if LAST:
        return position * C + channel
    else:
        return channel * M + position
