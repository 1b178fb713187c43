"""UBN as a drop-in for ``nn.BatchNorm2d``: start, interface, state, errors."""

import copy

import pytest
import torch
from helpers.layers import OFF, STAGES, images, shake, trained
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import UBN


class TestUBN(NormTester):
    norm = UBN
    variants = {'all': {}, 'pooled': {'condensation_feature': 'pooled'}} | STAGES
    wrong = [
        ({'centering': 1}, 'centering.*True or False.*1'),
        ({'scaling': 'raw'}, "scaling.*'normalized' or None.*'raw'"),
        ({'scaling': True}, "scaling.*'normalized' or None.*True"),
        ({'kernel_size': 4}, 'kernel_size.*positive odd integer.*4'),
        ({'kernel_size': -3}, 'kernel_size.*positive odd integer.*-3'),
        ({'kernel_size': (3, 3)}, 'kernel_size.*positive odd integer'),
        ({'initial_weight': 'small'}, "initial_weight.*number.*'small'"),
        ({'initial_weight': float('nan')}, 'initial_weight.*finite.*nan'),
        ({'initial_spatial': 'random'}, "'zeros' or 'kaiming' or 'fan_in'.*'random'"),
        ({'condensation_threshold': -0.1}, r'condensation_threshold.*\[0, 1\).*-0.1'),
        ({'condensation_threshold': 1}, r'condensation_threshold.*\[0, 1\).*1'),
        ({'condensation_feature': 'mean'}, "'flat' or 'pooled'.*'mean'"),
        ({'condensation_feature': ['flat']}, r"'flat' or 'pooled'.*\['flat'\]"),
        ({'condensation_opens': 'all'}, "'similar' or 'dissimilar'.*'all'"),
        ({'condensation_min_updates': -1}, 'condensation_min_updates.*integer.*-1'),
    ]


def test_without_running_statistics_there_is_no_gate():
    assert UBN(3, track_running_stats=False).condensation is None


def test_the_names_and_shapes_of_its_state():
    shapes = {name: tuple(v.shape) for name, v in UBN(4).state_dict().items()}
    assert shapes == {
        'weight': (4,),
        'bias': (4,),
        'running_mean': (4,),
        'running_var': (4,),
        'num_batches_tracked': (),
        'centering_weight': (4,),
        'scaling_weight': (4,),
        'scaling_bias': (4,),
        'spatial_weight': (4, 3, 3),
        'condensation': (),
    }
    assert UBN(4, **OFF).state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()


def test_a_batchnorm_state_dict_takes_the_place_of_a_random_start():
    layer = UBN(3, dtype=torch.float64, initial_spatial='kaiming')
    norm = shake(nn.BatchNorm2d(3, dtype=torch.float64))
    layer.load_state_dict(norm.state_dict(), strict=True)
    x = images(2, 3, 6, 5)
    torch.testing.assert_close(layer.eval()(x), norm.eval()(x), rtol=1e-12, atol=0)


def test_a_batchnorm_state_dict_is_not_changed_by_loading():
    state = nn.BatchNorm2d(3).state_dict()
    keys = list(state)
    UBN(3).load_state_dict(state)
    assert list(state) == keys


PARTIAL = {
    'buffers alone': lambda state: {k: v for k, v in state.items() if 'running' in k},
    'weight alone': lambda state: {'weight': state['weight']},
    'no bias': lambda state: {k: v for k, v in state.items() if k != 'bias'},
}


@pytest.mark.parametrize('part', PARTIAL.values(), ids=PARTIAL)
def test_a_partial_batchnorm_state_leaves_learnt_stages_alone(part):
    layer = trained()
    before = copy.deepcopy(layer.state_dict())
    state = part(nn.BatchNorm2d(3, dtype=torch.float64).state_dict())
    result = layer.load_state_dict(state, strict=False)
    missing = before.keys() - state.keys() - {'num_batches_tracked'}
    assert missing <= set(result.missing_keys)
    for name in missing:
        assert torch.equal(layer.state_dict()[name], before[name])


def test_a_batchnorm_state_is_assigned_to_a_meta_layer_whole():
    layer = UBN(3, device='meta')
    norm = nn.BatchNorm2d(3)
    layer.load_state_dict(norm.state_dict(), assign=True)
    assert {t.device.type for t in layer.state_dict().values()} == {'cpu'}
    x = images(2, 3, 6, 5).float()
    torch.testing.assert_close(layer.eval()(x), norm.eval()(x))


def test_statistics_that_are_not_tracked_any_more_stand_still():
    layer, norm = UBN(3, **OFF), nn.BatchNorm2d(3)
    x = images(4, 3, 5, 5).float()
    for module in (layer, norm):
        module(x)
        module.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(2 * x), norm(2 * x))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(layer.eval()(x), norm.eval()(x))


@pytest.mark.slow
def test_inductor_compiles_it_into_one_graph():
    layer = trained(initial_weight=0.5).float()
    again = copy.deepcopy(layer)
    compiled = torch.compile(again, fullgraph=True)
    for seed in range(2):
        x = images(4, 3, 5, 5, seed=seed).float()
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, want = compiled(ours), layer(theirs)
        torch.testing.assert_close(y, want)
        y.square().sum().backward()
        want.square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(again.state_dict(), layer.state_dict())
    compiled.eval()
    torch.testing.assert_close(compiled(x), layer.eval()(x))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_a_channel_that_the_buffers_cannot_hold_leaves_the_others_alone(dtype):
    largest = torch.finfo(dtype).max
    wider = torch.float64 if dtype == torch.float32 else torch.float32
    x = images(3, 2, 4, 4).to(wider)
    alone = UBN(1, dtype=dtype, momentum=1.0)
    alone(x[:, 1:])
    layer = UBN(2, dtype=dtype, momentum=1.0)
    x[:, 0] *= 2.0 * largest**0.5
    layer(x)
    assert layer.running_var[0] == largest and int(layer.num_batches_tracked) == 1
    torch.testing.assert_close(layer.running_var[1], alone.running_var[0])
    torch.testing.assert_close(layer.running_mean[1], alone.running_mean[0])


def test_a_bad_sample_that_is_not_compared_spoils_its_batch_all_the_same():
    layer = trained()
    layer.condensation.fill_(0.9)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = images(18, 3, 4, 4)
    x[17, 0, 0, 0] = torch.nan
    layer(x)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_what_is_no_batch_of_maps_is_refused():
    """As every member refuses it; test_any_input.py asks them all."""
    layer, x = trained(), images(3, 3, 6, 4)
    before = copy.deepcopy(layer.state_dict())
    for training in (True, False):
        layer.train(training)
        for dtype in (torch.int64, torch.bool, torch.complex64):
            with pytest.raises(TypeError, match=f'floating-point .*, got {dtype}'):
                layer(x.to(dtype))
        for wrong in (x[0], x[0, 0], x[:, :, None]):
            with pytest.raises(ValueError, match='expected 4D input'):
                layer(wrong)
        with pytest.raises(RuntimeError, match='with 3 channels, got'):
            layer(torch.cat([x, x], dim=1))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
