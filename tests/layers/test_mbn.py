"""MBN: what the family promises, its memory, and the second forward."""

import warnings

import pytest
import torch
from helpers.layers import images, shake
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import MBN, UBN, precise_statistics, second_forward

NO_SECOND = 'ignore:MBN has met two batches:UserWarning'
pytestmark = pytest.mark.filterwarnings(NO_SECOND)
BUFFERS = 'mean_memory', 'var_memory', 'running_mean', 'running_var'


class TestMBN(NormTester):
    norm = MBN
    variants = {
        'default': {},
        'two batches': {'memory_size': 2},
        'equal weights': {'memory_size': 3, 'decay': 1},
        'no memory': {'memory_size': 1},
    }
    refuses = ('no statistics',)
    wrong = [
        ({'memory_size': 0}, 'memory_size.*positive integer, got 0'),
        ({'decay': 0}, r'decay.*within \(0, 1\], got 0'),
        ({'decay': 1.1}, r'decay.*within \(0, 1\], got 1.1'),
        ({'track_running_stats': False}, 'track_running_stats must be True, got False'),
    ]

    def is_batchnorm(self, settings):
        return False


def layer_of(memory_size=3, **settings):
    return shake(MBN(4, memory_size=memory_size, dtype=torch.float64, **settings))


def batch(seed):
    return images(3, 4, 6, 5, seed=seed, alike=False) * (1 + seed) + seed


def test_equal_weights_are_one_batch_of_all_in_memory():
    layer = layer_of(decay=1)
    for seed in range(5):
        y = layer(batch(seed))
    norm = nn.BatchNorm2d(4, dtype=torch.float64)
    norm.load_state_dict(layer.state_dict(), strict=False)
    together = norm(torch.cat([batch(seed) for seed in (2, 3, 4)]))
    torch.testing.assert_close(y, together[-3:])


def test_a_second_forward_replaces_what_the_first_has_memorized():
    layer, again = layer_of(), layer_of()
    for seed in range(5):
        layer(batch(seed))
        with second_forward(layer):
            y = layer(batch(seed + 10))
        want = again(batch(seed + 10))
        torch.testing.assert_close(y, want.detach())
        torch.testing.assert_close(layer.state_dict(), again.state_dict())
    assert layer.batches_memorized == layer.num_batches_tracked == 5


def test_a_second_forward_before_any_first_changes_nothing_but_the_average():
    layer = layer_of()
    with second_forward(layer):
        layer(batch(0))
    assert not layer.mean_memory.any() and layer.batches_memorized == 0


def test_a_bad_second_forward_leaves_the_first_in_memory():
    layer = layer_of()
    layer(batch(0))
    before = [layer.get_buffer(name).clone() for name in BUFFERS]
    with second_forward(layer):
        layer(batch(1) * torch.nan)
    torch.testing.assert_close([layer.get_buffer(name) for name in BUFFERS], before)


def test_evaluation_normalises_as_training_has():
    layer = layer_of()
    for seed in range(4):
        y = layer(batch(seed))
    torch.testing.assert_close(layer.eval()(batch(3)), y)


def test_a_batch_counts_less_with_age():
    layer = layer_of(memory_size=2, decay=0.25)
    for seed in range(3):
        layer(batch(seed))
    means = [batch(seed).mean((0, 2, 3)) for seed in (1, 2)]
    want = 0.2 * means[0] + 0.8 * means[1]
    torch.testing.assert_close(layer.running_mean, want)


def test_precise_statistics_are_plain_averages():
    layer = layer_of()
    layer(batch(9))
    memory = layer.mean_memory.clone()
    precise_statistics(layer, [batch(seed) for seed in range(3)])
    want = sum(batch(seed).mean((0, 2, 3)) for seed in range(3)) / 3
    torch.testing.assert_close(layer.running_mean, want)
    assert torch.equal(layer.mean_memory, memory)


def test_within_it_other_norms_keep_their_state_and_nothing_has_a_gradient():
    norms = nn.BatchNorm2d(4), UBN(4), nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(MBN(4), *norms)
    model(batch(0).float())
    before = {k: v.clone() for k, v in model[1:].state_dict().items()}
    with second_forward(model):
        y = model(batch(1).float())
    assert not y.requires_grad
    torch.testing.assert_close(model[1:].state_dict(), before, rtol=0, atol=0)
    assert [norm.track_running_stats for norm in norms] == [True, True, False]
    model(batch(2).float())
    assert not torch.equal(before['1.running_mean'], model[1].running_mean)


def test_an_error_within_it_ends_it():
    model = nn.Sequential(MBN(4), nn.BatchNorm2d(4))
    with pytest.raises(RuntimeError, match='channels'), second_forward(model):
        model(torch.zeros(2, 3, 5, 5))
    assert not model[0].is_second_forward and model[1].track_running_stats


@pytest.mark.filterwarnings('error')
def test_training_without_a_second_forward_is_warned_of():
    layer = layer_of()
    with pytest.warns(UserWarning, match=r'DoubleForwardHook.*second_forward\(model\)'):
        for seed in range(2):
            layer(batch(seed))
    for seed in range(2):
        with second_forward(layer):
            layer(batch(seed))
        layer(batch(seed + 1))
    layer.eval()
    for seed in range(2):
        layer(batch(seed))


def test_the_warning_is_shown_once():
    model = nn.Sequential(layer_of(), layer_of())
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('default')
        for seed in range(4):
            model(batch(seed))
    assert len(shown) == 1
