"""PowerNorm: what the family promises, and its two averages."""

import torch
from helpers.layers import images
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import PowerNorm


class TestPowerNorm(NormTester):
    norm = PowerNorm
    all_reduces_backward = 2
    refuses = ('no statistics', 'no momentum')
    variants = {
        'default': {},
        # The first batch is warm-up, where the gradient is exact.
        'soon': {'warmup_steps': 1},
        'at once': {'warmup_steps': 0},
    }
    inexact = ('at once',)
    wrong = [
        ({'warmup_steps': -1}, 'warmup_steps.*integer >= 0, got -1'),
        ({'momentum': None}, r'momentum.*within \[0, 1\], got None'),
        ({'track_running_stats': False}, 'track_running_stats must be True, got False'),
    ]

    def is_batchnorm(self, settings):
        return False  # it does not centre


def test_many_batches_go_by_the_definition():
    layer = PowerNorm(3, warmup_steps=3, dtype=torch.float64)
    TestPowerNorm().compare(layer, images(2, 3, 4, 4), steps=8)


def test_training_normalises_as_evaluation_did_before_the_batch():
    layer = PowerNorm(3, warmup_steps=0, dtype=torch.float64)
    for seed in range(3):
        x = images(2, 3, 4, 4, seed=seed)
        evaluated = layer.eval()(x)
        torch.testing.assert_close(layer.train()(x), evaluated)


def test_on_equal_batches_the_running_gradient_becomes_the_exact_one():
    """Then it is the derivative of normalising by the batch's own quadratic mean."""
    layer = PowerNorm(2, warmup_steps=0, momentum=0.5, dtype=torch.float64)
    x, upstream = images(2, 2, 3, 3), images(2, 2, 3, 3, seed=1)
    for _ in range(80):
        ours = x.clone().requires_grad_()
        layer(ours).backward(upstream)
    theirs = x.clone().requires_grad_()
    mean = theirs.square().mean((0, 2, 3), keepdim=True)
    (theirs / torch.sqrt(mean + layer.eps)).backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_is_not_averaged():
    layer = PowerNorm(2, warmup_steps=0, dtype=torch.float64)
    x = images(2, 2, 4, 4).requires_grad_()
    layer(x).square().sum().backward()
    before = layer.running_gradient.clone()
    assert before.all()
    (layer(x) * torch.inf).sum().backward()
    torch.testing.assert_close(layer.running_gradient, before, rtol=0, atol=0)


def test_a_batchnorm_it_is_loaded_from_is_what_it_evaluates_as():
    norm = nn.BatchNorm2d(2, dtype=torch.float64)
    for seed in range(30):
        norm(images(2, 2, 4, 4, seed=seed))
    layer = PowerNorm(2, warmup_steps=1, dtype=torch.float64)
    layer.load_state_dict(norm.state_dict(), strict=True)
    x = images(2, 2, 4, 4)
    evaluated = layer.eval()(x)
    torch.testing.assert_close(evaluated, norm.eval()(x))
    assert layer.evaluates_as_batchnorm
    # BatchNorm has averaged no gradient, so its batches are no warm-up.
    deviation = x - norm.running_mean.view(2, 1, 1)
    square = deviation.square().mean((0, 2, 3)).view(2, 1, 1)
    own = deviation / (square + layer.eps).sqrt()
    torch.testing.assert_close(layer.train()(x), own)
    assert not torch.allclose(layer(x), own)
