"""UBN as a drop-in for ``nn.BatchNorm2d``: start, interface, state, errors."""

import copy
import pickle

import pytest
import torch
from helpers.layers import OFF, STAGES, define_ubn, images, trained
from helpers.norm_tester import NormTester
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from ubn_mmdet import UBN


class TestUBN(NormTester):
    norm = UBN
    variants = STAGES | {'pooled': {'condensation_feature': 'pooled'}}
    wrong = [
        ({'centering': 1}, 'centering.*True or False.*1'),
        ({'scaling': 'raw'}, "scaling.*'normalized' or None.*'raw'"),
        ({'scaling': True}, "scaling.*'normalized' or None.*True"),
        ({'kernel_size': 4}, 'kernel_size.*positive odd integer.*4'),
        ({'kernel_size': -3}, 'kernel_size.*positive odd integer.*-3'),
        ({'kernel_size': (3, 3)}, 'kernel_size.*positive odd integer'),
        ({'initial_weight': 'small'}, "initial_weight.*number.*'small'"),
        ({'initial_weight': float('nan')}, 'initial_weight.*finite.*nan'),
        ({'initial_spatial': 'random'}, "'zeros' or 'kaiming'.*'random'"),
        ({'condensation_threshold': -0.1}, r'condensation_threshold.*\[0, 1\).*-0.1'),
        ({'condensation_threshold': 1}, r'condensation_threshold.*\[0, 1\).*1'),
        ({'condensation_feature': 'mean'}, "'flat' or 'pooled'.*'mean'"),
        ({'condensation_feature': ['flat']}, r"'flat' or 'pooled'.*\['flat'\]"),
        ({'condensation_opens': 'all'}, "'similar' or 'dissimilar'.*'all'"),
        ({'kernal_size': 3}, 'kernal_size'),
    ]

    def define(self, layer, xs, state):
        return define_ubn(layer, xs, state)


def batchnorm_like(layer: UBN) -> nn.BatchNorm2d:
    """A BatchNorm with the layer's own BatchNorm parameters and statistics."""
    norm = nn.BatchNorm2d(
        layer.num_features, affine=layer.affine, dtype=torch.float64
    ).train(layer.training)
    norm.load_state_dict(layer.state_dict(), strict=False)
    return norm


def assert_same_step(layer: UBN, norm: nn.BatchNorm2d, x: torch.Tensor) -> None:
    """Output, the gradients both have, and running statistics are equal."""
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(ours), norm(theirs)
    close = {'rtol': 1e-10, 'atol': 1e-12}
    torch.testing.assert_close(y, expected, **close)
    gradient = images(*x.shape, seed=1)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, **close)
    own = dict(layer.named_parameters())
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, **close)
    buffers = dict(layer.named_buffers())
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, **close)


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_a_fresh_layer_is_batchnorm(stages, training):
    layer = UBN(3, dtype=torch.float64, **stages).train(training)
    assert_same_step(layer, batchnorm_like(layer), images(4, 3, 6, 5))


def test_with_all_stages_off_it_stays_batchnorm_through_training():
    layer = trained(**OFF)
    norm = batchnorm_like(layer)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (layer, norm)]
    for step in range(5):
        assert_same_step(layer, norm, images(4, 3, 6, 5, seed=step))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert layer.state_dict().keys() == norm.state_dict().keys()


def test_without_running_statistics_it_is_batchnorm_without_them():
    layer = UBN(3, track_running_stats=False, dtype=torch.float64).eval()
    norm = nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64).eval()
    assert layer.condensation is None
    assert_same_step(layer, norm, images(4, 3, 6, 5))


def test_interface_that_the_toolbox_goes_by():
    assert _BatchNorm in UBN.__bases__  # the toolbox looks at immediate bases
    assert UBN._abbr_ == 'bn'
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


@pytest.mark.parametrize('start', [{}, {'initial_spatial': 'kaiming'}])
def test_a_batchnorm_state_dict_loads_strictly(start):
    layer = UBN(3, dtype=torch.float64, **start)
    norm = batchnorm_like(trained(**OFF))
    result = layer.load_state_dict(norm.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
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


@pytest.mark.parametrize('lost', ['condensation', 'spatial_weight', 'weight'])
def test_a_damaged_ubn_state_dict_is_reported(lost):
    state = trained().state_dict()
    del state[lost]
    assert UBN(3).load_state_dict(state, strict=False).missing_keys == [lost]


def test_copies_carry_the_whole_state_with_the_gate():
    layer = trained()
    layer.condensation.fill_(0.17)  # the next dissimilar batch closes the gate
    restored = UBN(3, dtype=torch.float64)
    restored.load_state_dict(layer.state_dict())
    copies = [restored, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    outputs = []
    for module in [layer, *copies]:
        outputs.append([module(images(4, 3, 5, 5, alike=False)) for _ in range(3)])
        assert module.condensation < module.condensation_threshold
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        ({'num_features': 0}, 'num_features.*positive integer.*0'),
        ({'num_features': 2.0}, 'num_features.*positive integer.*2.0'),
        ({'eps': -1e-5}, 'eps.*finite number > 0.*-1e-05'),
        ({'eps': 0}, 'eps.*finite number > 0.*0'),
        ({'momentum': 1.5}, r'momentum.*None or within \[0, 1\].*1.5'),
        ({'affine': 'yes'}, 'affine.*True or False.*yes'),
        ({'track_running_stats': None}, 'track_running_stats.*None'),
        ({'centering': 1}, 'centering.*True or False.*1'),
        ({'scaling': 'raw'}, "scaling.*'normalized' or None.*'raw'"),
        ({'scaling': True}, "scaling.*'normalized' or None.*True"),
        ({'kernel_size': 4}, 'kernel_size.*positive odd integer.*4'),
        ({'kernel_size': -3}, 'kernel_size.*positive odd integer.*-3'),
        ({'kernel_size': (3, 3)}, 'kernel_size.*positive odd integer'),
        ({'initial_weight': 'small'}, "initial_weight.*number.*'small'"),
        ({'initial_weight': float('nan')}, 'initial_weight.*finite.*nan'),
        ({'initial_spatial': 'random'}, "'zeros' or 'kaiming'.*'random'"),
        ({'condensation_threshold': -0.1}, r'condensation_threshold.*\[0, 1\).*-0.1'),
        ({'condensation_threshold': 1}, r'condensation_threshold.*\[0, 1\).*1'),
        ({'condensation_feature': 'mean'}, "'flat' or 'pooled'.*'mean'"),
        ({'condensation_feature': ['flat']}, r"'flat' or 'pooled'.*\['flat'\]"),
        ({'kernal_size': 3}, 'kernal_size'),
    ],
)
def test_senseless_arguments_raise_at_construction(settings, named):
    with pytest.raises((ValueError, TypeError), match=named):
        UBN(**({'num_features': 8} | settings))


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 4), (2, 3, 4, 4, 4)])
def test_wrong_rank_raises_as_batchnorm_does(shape):
    for norm in (UBN(3), nn.BatchNorm2d(3)):
        with pytest.raises(ValueError, match='expected 4D input'):
            norm(torch.zeros(shape))


@pytest.mark.parametrize('training', [True, False])
def test_wrong_channels_raise_as_in_batchnorm(training):
    for norm in (UBN(3), nn.BatchNorm2d(3)):
        with pytest.raises(RuntimeError, match='3'):
            norm.train(training)(torch.zeros(2, 4, 5, 5))


def test_one_value_per_channel_raises_in_training_alone():
    for norm in (UBN(3), nn.BatchNorm2d(3)):
        with pytest.raises(ValueError, match='more than 1 value per channel'):
            norm(torch.zeros(1, 3, 1, 1))
        assert norm.eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_one_value_per_channel_raises_without_running_statistics_too():
    for norm in (
        UBN(3, track_running_stats=False),
        nn.BatchNorm2d(3, track_running_stats=False),
    ):
        with pytest.raises(ValueError, match='more than 1 value per channel'):
            norm.eval()(torch.zeros(1, 3, 1, 1))


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


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'dtype', [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str
)
def test_input_that_is_not_real_floating_point_is_refused(stages, training, dtype):
    layer = trained(**stages).train(training)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=f'floating-point dtype, got {dtype}'):
        layer(torch.ones(2, 3, 4, 4, dtype=dtype))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('shape', [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_an_empty_batch_passes_and_leaves_the_state_alone(training, stages, shape):
    layer = trained(**stages).train(training)
    before = copy.deepcopy(layer.state_dict())
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    for parameter in layer.parameters():  # as data-parallel training wants
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('feature', ['flat', 'pooled'])
def test_forward_reads_nothing_back(training, feature):
    # A meta tensor has no data: any branch on data, .item() or copy to the host raises.
    layer = UBN(4, device='meta', condensation_feature=feature).train(training)
    assert layer(torch.empty(3, 4, 5, 5, device='meta')).shape == (3, 4, 5, 5)


class ReadsBack(TorchDispatchMode):
    """Fails at what reads a number back to the host."""

    names = '_local_scalar_dense', 'item', 'nonzero', 'equal', 'is_nonzero'

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.names, f'{name} reads back to the host'
        return function(*args, **kwargs or {})


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('feature', ['flat', 'pooled'])
@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_fused_passes_read_nothing_back(training, feature, stages):
    layer = trained(4, condensation_feature=feature, **stages).train(training)
    x = images(3, 4, 5, 5).requires_grad_()
    with ReadsBack():
        layer(x).sum().backward()
        with pytest.raises(AssertionError, match='reads back'):
            x.sum().item()


@pytest.mark.parametrize(
    'backend',
    ['eager', 'aot_eager', pytest.param('inductor', marks=pytest.mark.slow)],
)
def test_it_compiles_into_one_graph(backend):
    # PyTorch 2.13 loses changes of a 0-dimensional float64 buffer behind aot_eager.
    layer = trained(initial_weight=0.5).float()
    again = copy.deepcopy(layer)
    compiled = torch.compile(again, backend=backend, fullgraph=True)
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
