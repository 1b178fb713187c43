"""Precise statistics are plain averages over batches, and nothing else changes."""

import pytest
import torch
from helpers.layers import images
from torch import nn

from ubn_mmdet import BGN, BNET, IEBN, MABN, MBN, RBN, UBN, precise_statistics
from ubn_mmdet.layers import FAMILY

BATCHES = [images(n, 4, 5, 6, alike=False, seed=n) * n + n for n in (2, 3, 4)]


def trained(norm, **settings):
    """A layer with a history."""
    if norm is BGN:
        settings['num_groups'] = 2
    layer = norm(4, dtype=torch.float64, **settings)
    layer.train()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        layer(torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=generator))
    return layer


def averages(batches):
    """From the definition, element by element."""
    rows = [x.transpose(0, 1).reshape(4, -1) for x in batches]
    mean = sum(row.mean(1) for row in rows) / len(rows)
    var = sum(
        ((row - row.mean(1, keepdim=True)) ** 2).sum(1) / (row.shape[1] - 1)
        for row in rows
    )
    return mean, var / len(rows)


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, BNET, IEBN, RBN])
def test_they_are_plain_averages(norm):
    layer = trained(norm)
    precise_statistics(layer, BATCHES)
    mean, var = averages(BATCHES)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings('ignore:MBN has met two batches')
@pytest.mark.parametrize(
    ('norm', 'settings'), [(MABN, {'warmup_steps': 0}), (MBN, {})], ids=str
)
def test_what_a_layer_remembers_of_other_batches_does_not_count(norm, settings):
    fresh, used = (
        nn.Sequential(*(norm(4, dtype=torch.float64, **settings) for _ in range(2)))
        for _ in range(2)
    )
    for seed in range(20):  # more than the memories hold
        used(100 * images(2, 4, 5, 6, seed=seed))
    for net in (fresh, used):
        precise_statistics(net, BATCHES)
    for ours, theirs in zip(used, fresh, strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_of_a_gated_norm_the_batches_count_whose_gate_is_open():
    layer = trained(UBN, condensation_threshold=0)
    precise_statistics(layer, BATCHES)
    assert torch.allclose(layer.running_mean, averages(BATCHES)[0])
    shut = trained(UBN, condensation_threshold=0, condensation_opens='dissimilar')
    before = shut.running_mean.clone()
    precise_statistics(shut, BATCHES)
    assert torch.equal(shut.running_mean, before)


def test_a_gate_that_may_close_stays_shut():
    settings = {'condensation_threshold': 0, 'condensation_opens': 'dissimilar'}
    shut = trained(UBN, condensation_min_updates=2, **settings)
    assert shut.num_batches_tracked == 2 and not shut.gate_is_open
    before = shut.running_mean.clone()
    precise_statistics(shut, BATCHES)
    assert torch.equal(shut.running_mean, before)
    assert shut.condensation_min_updates == 2


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, *FAMILY])
def test_nothing_else_changes(norm):
    for training in (True, False):
        layer = trained(norm).train(training)
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        momentum = layer.momentum
        precise_statistics(layer, BATCHES)
        assert layer.training is training and layer.momentum == momentum
        after = layer.state_dict()
        changed = {
            name for name in before if not torch.equal(before[name], after[name])
        }
        assert 'running_var' in changed
        assert changed <= {'running_mean', 'running_var'}


class Held(nn.Module):
    """As a backbone with ``norm_eval`` or ``frozen_stages``: train() passes a norm over."""

    def __init__(self, held):
        super().__init__()
        self.norms = nn.Sequential(trained(UBN), trained(nn.BatchNorm2d))
        self.held = held

    def train(self, mode=True):
        super().train(mode)
        for index in self.held:
            self.norms[index].eval()
        return self

    def forward(self, data):
        return self.norms(data['inputs'])


def test_norms_that_are_held_keep_theirs():
    model = Held(held=[0]).eval()
    held, free = model.norms
    before = held.running_mean.clone(), free.running_mean.clone()
    precise_statistics(model, [{'inputs': x} for x in BATCHES])
    assert torch.equal(held.running_mean, before[0])
    assert not torch.equal(free.running_mean, before[1])
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match='no norm layer whose statistics move'):
        precise_statistics(Held(held=[0, 1]), [])


def test_the_model_is_called_as_in_training():
    model = Held(held=[]).eval()
    seen = []

    def forward(x):
        seen.append((model.training, torch.is_grad_enabled()))
        model({'inputs': x})

    precise_statistics(model, iter(BATCHES), forward)
    assert seen == [(True, False)] * 3


@pytest.mark.parametrize(
    'batches', [[], [torch.zeros(2, 3, 5, 6)], [BATCHES[0], torch.zeros(2, 3, 5, 6)]]
)
def test_after_an_error_the_model_is_as_before(batches):
    layer = trained(UBN).eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError), match='no batch|channels'):
        precise_statistics(layer, batches)
    assert not layer.training and layer.momentum == 0.1
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
