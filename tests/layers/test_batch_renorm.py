"""Batch Renormalization: what the family promises, and its corrections."""

import math

import pytest
import torch
from helpers.layers import images
from helpers.norm_tester import NormTester, assert_same_step
from torch import nn

from ubn_mmdet import BatchRenorm

AT_ONCE = {'plain_steps': 0, 'r_steps': 0, 'd_steps': 0}


class TestBatchRenorm(NormTester):
    norm = BatchRenorm
    refuses = ('no statistics',)
    variants = {
        'default': {},
        # Starts to correct, a little, with the third batch.
        'soon': {'plain_steps': 1, 'r_steps': 4, 'd_steps': 3},
        'narrow': AT_ONCE | {'r_max': 1.1, 'd_max': 0.1},
        'wide': AT_ONCE | {'r_max': 100, 'd_max': 100},
    }
    inexact = 'narrow', 'wide'  # r and d are constants for it
    wrong = [
        ({'r_max': 0.5}, 'r_max.*finite and >= 1, got 0.5'),
        ({'r_max': math.inf}, 'r_max.*finite and >= 1, got inf'),
        ({'d_max': -1}, 'd_max.*finite and >= 0, got -1'),
        ({'plain_steps': -1}, 'plain_steps.*integer >= 0, got -1'),
        ({'r_steps': 4999}, 'r_steps.*>= 5000, got 4999'),
        ({'d_steps': 10.5}, 'd_steps.*>= 5000, got 10.5'),
        ({'track_running_stats': False}, 'track_running_stats must be True, got False'),
    ]

    def is_batchnorm(self, settings):
        return settings.get('plain_steps') != 0


@pytest.mark.parametrize('limits', [{'r_max': 1}, {'d_max': 0}], ids=str)
def test_each_correction_alone(limits):
    layer = BatchRenorm(3, **AT_ONCE, **limits, dtype=torch.float64)
    TestBatchRenorm().compare(layer, images(3, 3, 5, 4), steps=3)


def test_without_room_it_is_batchnorm_for_good():
    layer = BatchRenorm(3, r_max=1, d_max=0, **AT_ONCE, dtype=torch.float64)
    norm = nn.BatchNorm2d(3, momentum=0.01, dtype=torch.float64)
    for seed in range(4):
        assert_same_step(layer, norm, images(3, 3, 5, 4, seed=seed))


def test_with_all_room_training_normalises_as_evaluation_does():
    layer = BatchRenorm(3, r_max=1e6, d_max=1e6, **AT_ONCE, dtype=torch.float64)
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    x = images(3, 3, 5, 4)
    evaluated = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), evaluated)
    assert not torch.equal(layer.eval()(x), evaluated)  # the statistics have moved


def test_the_limits_grow_as_in_the_paper():
    layer = BatchRenorm(1, dtype=torch.float64)
    x = images(2, 1, 4, 4)
    for seen, r, d in (
        (0, 1, 0),
        (5_000, 1, 0),
        (15_000, 1 + 2 * 10 / 35, 2.5),
        (25_000, 1 + 2 * 20 / 35, 5),
        (40_000, 3, 5),
        (90_000, 3, 5),
    ):
        layer.reset_running_stats()
        layer.num_batches_tracked.fill_(seen)
        # Out of every limit: much wider than the running statistics, far from them.
        y = layer.train()(100 * x + 1e5)
        assert y.std(correction=0).item() == pytest.approx(r, rel=1e-6)
        assert y.mean().item() == pytest.approx(d, rel=1e-6, abs=1e-9)


def test_checkpoints_are_those_of_batchnorm():
    assert BatchRenorm(2).state_dict().keys() == nn.BatchNorm2d(2).state_dict().keys()
    assert BatchRenorm(2).evaluates_as_batchnorm
