"""How the passes are divided among programs and started, and where an element lies."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tensors import memory_format

PROGRAMS = 2048  # enough to fill a large GPU several times over
LONGEST = 32  # tiles that one program may go through
COLUMNS, ROWS = 128, 16  # of a tile of partial results


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

    @property
    def constants(self) -> dict[str, Any]:
        """What every kernel is compiled for, by the names of its parameters."""
        return {
            'LAST': self.last,
            'POSITIONS': self.positions,
            'CHANNELS': self.channels,
        }


def divide(x: Tensor, elements: int = 1024) -> Tiles:
    """The division of ``x``, which is dense in either memory format.

    Args:
        x: ``(N, C, H, W)``, not empty.
        elements: Of ``x`` in a tile, about; a power of two.
    """
    n, c, h, w = x.shape
    m = h * w
    last = memory_format(x) is torch.channels_last
    # Neighbours in memory first.
    if last:
        channels = min(triton.next_power_of_2(c), 64)
        positions = min(triton.next_power_of_2(m), max(elements // channels, 1))
    else:
        positions = min(triton.next_power_of_2(m), elements)
        channels = min(triton.next_power_of_2(c), max(elements // positions, 1))
    columns = n * triton.cdiv(c, channels)
    tiles = triton.cdiv(m, positions)
    length = min(max(columns * tiles // PROGRAMS, 1), LONGEST, tiles) * positions
    splits = triton.cdiv(m, length)
    return Tiles(last, positions, channels, length, splits, columns * splits)


def dense(x: Tensor) -> Tensor:
    """``x``, dense in one of the two memory formats; a copy if it is in neither."""
    return x.contiguous(memory_format=memory_format(x))


def rows(coefficient: Tensor | None, absent: Tensor) -> Tensor:
    """``(N, C)`` with the channels side by side; the rows may be one and the same.

    An absent coefficient is never loaded, so any tensor can stand in its place.
    """
    if coefficient is None:
        return absent
    # The stride of a single channel means nothing.
    if coefficient.shape[1] == 1 or coefficient.stride(1) == 1:
        return coefficient
    return coefficient.contiguous()


@triton.jit
def place(C, M, length, LAST: tl.constexpr, CHANNELS: tl.constexpr):
    """Of this program: sample, block of channels, part of the positions.

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


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run ``kernel(x, *args, **constants)`` on the device of ``x``."""
    # Triton launches on the current device, whatever device its arguments are on.
    with torch.cuda.device_of(x):
        kernel[(programs,)](x, *args, **constants)
