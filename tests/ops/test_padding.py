"""Which part of a map is image, and what is announced to whom."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ubn_mmdet import UBN, padded_images
from ubn_mmdet.ops.fused import Coefficients
from ubn_mmdet.ops.padding import (
    AnnouncedBatch,
    PaddedPasses,
    map_stride,
    valid_part,
)

X = torch.zeros(1, 3, 8, 8)


def test_copies_of_a_layer_do_not_take_along_what_it_remembers():
    layer, apart = UBN(3), torch.nn.Linear(100, 100)
    with padded_images([(5, 8)], (8, 8), exclude=[apart]):
        layer(torch.randn(1, 3, 8, 8))
    assert layer.__dict__['_remembered_settings']
    assert not copy.deepcopy(layer).__dict__['_remembered_settings']
    assert len(pickle.dumps(layer)) < 20_000


def halved(x):
    """What strided layers make of a map; with kernels of 7, 3, 3 and 1."""
    for kernel in (7, 3):
        x = F.max_pool2d(x, kernel, 2, kernel // 2)
        yield x
    for kernel in (3, 1):
        x = F.conv2d(x, x.new_ones(1, 1, kernel, kernel), None, 2, kernel // 2)
        yield x


@pytest.mark.parametrize('padded', [(64, 64), (67, 90), (33, 47), (70, 16)], ids=str)
def test_the_valid_part_is_what_the_image_alone_would_give(padded):
    sizes = [(1, 1), (padded[0] - 1, padded[1] // 2), (17, 9), padded]
    batch = list(halved(torch.zeros(len(sizes), 1, *padded)))
    alone = [list(halved(torch.zeros(1, 1, *size))) for size in sizes]
    for level, x in enumerate(batch):
        valid = AnnouncedBatch(sizes, padded).valid_part(x)
        for i in range(len(sizes)):
            h, w = alone[i][level].shape[2:]
            want = torch.zeros(x.shape[2:], dtype=torch.bool)
            want[:h, :w] = True
            assert torch.equal(valid.mask[i, 0], want)
            assert valid.positions[i] == h * w
        assert valid.count == valid.mask.sum()


@pytest.mark.parametrize(
    ('padded', 'size', 'stride'),
    [
        ((64, 96), (64, 96), 1),
        ((64, 96), (16, 24), 4),
        ((61, 90), (16, 23), 4),
        ((140, 280), (10, 20), 14),
        ((64, 96), (1, 1), 128),
        ((64, 96), (16, 16), None),
        ((64, 96), (14, 14), None),
        ((64, 96), (128, 192), None),
    ],
)
def test_the_stride_of_maps(padded, size, stride):
    assert map_stride(padded, size) == stride


def test_maps_that_are_not_of_the_images_are_wholly_valid():
    images = AnnouncedBatch([(5, 8), (8, 6)], (8, 8))
    assert images.valid_part(torch.zeros(2, 3, 4, 4)) is not None
    for shape in [(3, 3, 4, 4), (1, 3, 8, 8), (2, 3, 7, 7), (0, 3, 8, 8)]:
        assert images.valid_part(torch.zeros(shape)) is None


def test_what_is_announced_holds_within_and_not_for_layers_apart():
    layer, apart = nn.Identity(), nn.Identity()
    assert valid_part(layer, X) is None
    with padded_images([(5, 8)], (8, 8), exclude=[apart]):
        assert valid_part(layer, X).count == 5 * 8
        assert valid_part(apart, X) is None
        with padded_images([(2, 2)], (8, 8)):
            assert valid_part(layer, X).count == 2 * 2
        assert valid_part(layer, X).count == 5 * 8
    assert valid_part(layer, X) is None
    with pytest.raises(RuntimeError, match='within'), padded_images([(5, 8)], (8, 8)):
        raise RuntimeError('within')
    assert valid_part(layer, X) is None


@pytest.mark.parametrize('size', [(0, 3), (3, 9), (9, 3), (-1, 2)])
def test_sizes_that_cannot_be_are_refused(size):
    with (
        pytest.raises(ValueError, match=rf'of the batch, \(8, 8\), got \({size[0]},'),
        padded_images([(8, 8), size], (8, 8)),
    ):
        pass


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last], ids=str
)
def test_passes_keep_the_memory_format(memory_format):
    x = torch.randn(2, 3, 8, 8).to(memory_format=memory_format)
    passes = PaddedPasses(x, AnnouncedBatch([(5, 8), (8, 6)], (8, 8)).valid_part(x))
    zero, one = torch.zeros(3), torch.ones(3)
    for y in (
        passes.apply(Coefficients(zero, one, zero)),
        passes.apply(Coefficients(zero, one, zero, torch.ones(3, 3, 3), zero)),
    ):
        assert y.is_contiguous(memory_format=memory_format)
