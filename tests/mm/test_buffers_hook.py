"""Ranks evaluate with the buffers of rank 0."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.layers import images, trained
from mmengine.registry import HOOKS
from torch import nn


def evaluate(task):
    """One rank's part: a step of training, and its state before and in evaluation."""
    model, x = task
    model(x)
    before = copy.deepcopy(model.state_dict())
    hook = HOOKS.build({'type': 'BroadcastBuffersHook'})
    hook.before_val_epoch(SimpleNamespace(model=model))
    return before, model.state_dict()


@pytest.mark.parametrize(
    'norm', [lambda: trained(sync=False), lambda: nn.BatchNorm2d(3)]
)
def test_ranks_evaluate_what_rank_0_saves(two_ranks, norm):
    model = norm()
    tasks = [
        (model, images(2, 3, 5, 5, seed=seed).to(model.weight)) for seed in range(2)
    ]
    first, second = two_ranks.run(evaluate, tasks)
    assert not torch.equal(second[0]['running_mean'], first[0]['running_mean'])
    torch.testing.assert_close(first[1], first[0], rtol=0, atol=0)
    torch.testing.assert_close(second[1], first[0], rtol=0, atol=0)
