"""Which part of a map is image, where the images of a batch are padded to one size.

Images lie in the upper left corner of a batch, and whoever made the batch announces their
sizes (:func:`padded_images`). A layer finds the valid part of its own maps by their
stride (:func:`valid_part`), and reduces and writes that part alone
(:class:`PaddedPasses`). docs/compatibility.md says what follows from that.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .passes import Coefficients, ReferencePasses
from .recompute import remembered
from .tensors import compute_dtype, over_positions

Size = tuple[int, int]


class ValidPart(NamedTuple):
    """The part of some maps that is image.

    Attributes:
        mask: ``(N, 1, H, W)`` bool.
        positions: ``(N, 1)``, valid positions of a map of each sample.
        count: Of all samples.
    """

    mask: Tensor
    positions: Tensor
    count: int  # type: ignore[assignment]

    def fill(self, x: Tensor) -> Tensor:
        """``x`` with zeros outside; also for nan and inf, which a product would keep."""
        return x.where(self.mask, x.new_zeros(()))


class AnnouncedBatch:
    """The images of a batch, as :func:`padded_images` announces them."""

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        padded: Sequence[int],
        exclude: Collection[nn.Module] = (),
    ) -> None:
        self.sizes = [(int(h), int(w)) for h, w in sizes]
        height, width = padded
        self.padded = int(height), int(width)
        self.exclude = frozenset(exclude)
        # By what a part depends on: many layers have maps of one size. Tensors that were
        # made in inference mode are of no use in training.
        self._parts: dict[tuple, ValidPart | None] = {}

    def valid_part(self, x: Tensor) -> ValidPart | None:
        """The valid part of ``x``, ``(N, C, H, W)``; None if these are no maps of them."""
        n, _, height, width = x.shape
        if n != len(self.sizes) or not n:
            return None
        is_inference = torch.is_inference_mode_enabled()
        key = height, width, x.device, compute_dtype(x), is_inference
        if key not in self._parts:
            self._parts[key] = self._valid_part(x)
        return self._parts[key]

    def _valid_part(self, x: Tensor) -> ValidPart | None:
        n, _, height, width = x.shape
        stride = map_stride(self.padded, (height, width))
        if stride is None:
            return None
        sizes = [[_ceil(side, stride) for side in size] for size in self.sizes]
        # Filled, image by image: a copy of the sizes to a GPU would wait for it.
        mask = torch.zeros((n, 1, height, width), dtype=torch.bool, device=x.device)
        for one, (h, w) in zip(mask.unbind(), sizes, strict=True):
            one[:, :h, :w].fill_(True)
        positions = mask.sum(dim=(2, 3), dtype=compute_dtype(x))
        return ValidPart(mask, positions, sum(h * w for h, w in sizes))


_announced: ContextVar[AnnouncedBatch | None] = ContextVar('_announced', default=None)


@contextlib.contextmanager
def padded_images(
    sizes: Sequence[Sequence[int]],
    padded: Sequence[int],
    exclude: Collection[nn.Module] = (),
) -> Iterator[None]:
    """Norm layers called within it leave padded pixels out (docs/compatibility.md).

    A map of as many samples as there are images, and of a size that a stride makes of
    ``padded``, is taken for a map of the images. Others count as wholly valid.

    Args:
        sizes: Height and width of each image of the batch, in pixels; images lie in the
            upper left corner.
        padded: Height and width of the batch.
        exclude: Layers whose maps are not of whole images, though they may look it.

    Raises:
        ValueError: For an image without pixels, or larger than the batch.
    """
    images = AnnouncedBatch(sizes, padded, exclude)
    for size in images.sizes:
        if not all(1 <= s <= p for s, p in zip(size, images.padded, strict=True)):
            raise ValueError(
                f'an image must have at least 1 x 1 pixels and at most those of the '
                f'batch, {images.padded}, got {size}'
            )
    token = _announced.set(images)
    try:
        yield
    finally:
        _announced.reset(token)


def valid_part(layer: nn.Module, x: Tensor) -> ValidPart | None:
    """The part of the input ``x``, ``(N, C, H, W)``, that is announced to be image.

    To be asked in each forward of ``layer``: one that activation checkpointing repeats
    runs in the backward, when the announcement has ended. Traced and compiled graphs are
    for any batch, so padding is ignored there.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    images = _announced.get()
    if images is not None and layer in images.exclude:
        images = None
    images = remembered(layer, 'images', images, x)
    return None if images is None else images.valid_part(x)


def map_stride(padded: Size, size: Size) -> int | None:
    """The stride that makes maps of ``size`` from images of ``padded``; None for none.

    A strided convolution or pooling, padded by half its kernel, leaves
    ``ceil(size / stride)``, as do several whose strides multiply. Powers of two come
    first: where the size of the maps leaves a choice, it is one of them.
    """
    if not all(1 <= s <= p for s, p in zip(size, padded, strict=True)):
        return None
    # ceil(p / stride) == s for strides from ceil(p / s) to below p / (s - 1).
    pairs = [*zip(padded, size, strict=True)]
    least = max(_ceil(p, s) for p, s in pairs)
    ends = [_ceil(p, s - 1) for p, s in pairs if s > 1]
    power = 1 << (least - 1).bit_length()
    for stride in (power, least):
        if all(stride < end for end in ends):
            return stride
    return None


class PaddedPasses(ReferencePasses):
    """The reference's passes over the valid part of ``x``; zeros are written elsewhere.

    Zeros are what the convolutions after the layer would find beyond the border of an
    image that is not padded.
    """

    def __init__(self, x: Tensor, valid: ValidPart) -> None:
        super().__init__(valid.fill(x))
        self.valid = valid
        self.positions = valid.positions

    @property
    def count(self) -> int:
        """Elements of the valid part that share a channel."""
        return self.valid.count

    def mean(self) -> Tensor:
        """``K``, ``(N, C)``: the mean of the valid part of each map."""
        total = self.x.sum(dim=(2, 3), dtype=compute_dtype(self.x))
        return total / self.valid.positions

    def moments(self) -> tuple[Tensor, Tensor]:
        """``K, V``, ``(N, C)`` each: mean and biased variance of the valid part."""
        mean = self.mean()
        deviation = self.valid.fill(self.x - over_positions(mean))
        return mean, deviation.square().sum(dim=(2, 3)) / self.valid.positions

    def apply(self, coefficients: Coefficients) -> Tensor:
        """As on maps that end where the valid part does."""
        y = super().apply(coefficients)
        return y if coefficients.kernel is None else self.valid.fill(y)

    def _affine(self, pivot: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self.valid.fill(super()._affine(pivot, scale, shift))


def _ceil(side: int, stride: int) -> int:
    return -(-side // stride)
