"""MABN: what the family promises, its memories, and centred convolutions."""

import math

import pytest
import torch
from helpers.layers import images
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import MABN, CentralizedConv2d

SOON = {'memory_size': 2, 'warmup_steps': 0, 'renorm_steps': 0}


class TestMABN(NormTester):
    norm = MABN
    all_reduces_backward = 2
    refuses = ('no statistics',)
    variants = {
        'default': {},
        # The first batch is on its own, so that its gradient is exact.
        'soon': {'memory_size': 2, 'warmup_steps': 0},
        'at once': SOON,
        'narrow': SOON | {'r_max': 1.01},
    }
    inexact = 'at once', 'narrow'
    wrong = [
        ({'memory_size': 0}, 'memory_size.*positive integer, got 0'),
        ({'warmup_steps': -1}, 'warmup_steps.*integer >= 0, got -1'),
        ({'renorm_steps': 1.5}, 'renorm_steps.*integer >= 0, got 1.5'),
        ({'r_max': 0.2}, 'r_max.*finite and >= 1, got 0.2'),
        ({'r_max': math.nan}, 'r_max.*finite and >= 1, got nan'),
        ({'track_running_stats': False}, 'track_running_stats must be True, got False'),
    ]

    def is_batchnorm(self, settings):
        return False  # it does not centre


def through(layer, batches):
    for x in batches:
        layer(x.clone().requires_grad_()).square().sum().backward()
    return layer


@pytest.mark.parametrize('memory_size', [1, 3])
def test_many_batches_go_by_the_definition(memory_size):
    """The memories fill, go round, and take over."""
    layer = MABN(3, memory_size, warmup_steps=4, renorm_steps=5, dtype=torch.float64)
    TestMABN().compare(layer, images(2, 3, 4, 4), steps=9)


def test_with_a_memory_of_one_batch_the_gradient_is_exact():
    layer = MABN(2, 1, warmup_steps=0, dtype=torch.float64)
    through(layer, [images(2, 2, 3, 3, seed=seed) for seed in range(3)])

    def forward(x):
        state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return torch.func.functional_call(layer, state, (x,))

    x = images(2, 2, 3, 3, alike=False).requires_grad_()
    assert torch.autograd.gradcheck(forward, (x,))


def test_the_memories_are_the_last_batches():
    layer = MABN(2, 3, warmup_steps=0, dtype=torch.float64)
    batches = [images(2, 2, 4, 4, seed=seed) for seed in range(5)]
    through(layer, batches)
    squares = torch.stack([x.square().mean((0, 2, 3)) for x in batches], dim=1)
    torch.testing.assert_close(
        layer.square_memory.sort(dim=1)[0], squares[:, 2:].sort(dim=1)[0]
    )
    assert layer.gradient_memory.all()
    assert layer.batches_memorized == 5


def test_a_gradient_that_is_not_finite_is_not_remembered():
    layer = MABN(2, 2, warmup_steps=0, dtype=torch.float64)
    through(layer, [images(2, 2, 4, 4)])
    before = layer.gradient_memory.clone()
    x = images(2, 2, 4, 4, seed=1).requires_grad_()
    (layer(x) * torch.inf).sum().backward()
    torch.testing.assert_close(layer.gradient_memory, before, rtol=0, atol=0)


def test_a_batchnorm_it_is_loaded_from_is_what_it_evaluates_as():
    norm = nn.BatchNorm2d(2, dtype=torch.float64)
    for seed in range(30):
        norm(images(2, 2, 4, 4, seed=seed))
    layer = MABN(2, warmup_steps=0, dtype=torch.float64)
    layer.load_state_dict(norm.state_dict(), strict=True)
    x = images(2, 2, 4, 4)
    torch.testing.assert_close(layer.eval()(x), norm.eval()(x))
    assert layer.evaluates_as_batchnorm
    # Training goes on from there: about the mean that was loaded.
    mean = layer.running_mean.clone()
    layer.train()(x)
    want = (x - mean[:, None, None]).square().mean((0, 2, 3))
    torch.testing.assert_close(layer.square_memory[:, 0], want)
    assert torch.equal(layer.running_mean, mean)


def test_centred_convolution():
    conv = CentralizedConv2d(3, 4, 3, padding=1, groups=1, dtype=torch.float64)
    x = images(2, 3, 5, 5).requires_grad_()
    weight = conv.weight.detach().clone()
    for out in range(4):
        weight[out] -= weight[out].mean()
    want = nn.functional.conv2d(x, weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), want)
    conv(x).square().sum().backward()
    sums = conv.weight.grad.sum(dim=(1, 2, 3))
    torch.testing.assert_close(sums, torch.zeros_like(sums))
    nn.Conv2d(3, 4, 3).load_state_dict(conv.float().state_dict(), strict=True)


def test_a_norm_is_folded_into_a_centred_convolution():
    conv = CentralizedConv2d(3, 4, 3, dtype=torch.float64).eval()
    norm = nn.BatchNorm2d(4, dtype=torch.float64)
    x = images(4, 3, 6, 6)
    norm(conv(x))
    fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm.eval())
    torch.testing.assert_close(fused(x), norm(conv(x)))
