"""Layers whose algebra is Triton kernels against the definition, in the interpreter."""

import copy

import pytest
import torch
from helpers.interpreter import INTERPRETED
from helpers.layers import OFF, STAGES, compare, images, trained
from helpers.one_process import assert_equals_one_process
from helpers.passes import gradients
from torch.utils.checkpoint import checkpoint

pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet import UBN, choose_passes, reference_passes  # noqa: E402
from ubn_mmdet.ops import eager_algebra, triton_kernels  # noqa: E402
from ubn_mmdet.ops.triton_kernels.launch import noting  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FLOAT32 = {'rtol': 1e-4, 'atol': 1e-4}


@pytest.fixture(autouse=True)
def _choose_triton():
    with choose_passes('triton'):
        yield


@pytest.fixture
def _in_kernels(monkeypatch):
    """What no kernel takes fails."""

    def refuse(*_):
        raise AssertionError('not in a kernel')

    monkeypatch.setattr(eager_algebra, 'forward', refuse)
    monkeypatch.setattr(eager_algebra, 'backward', refuse)


def layer_of(**settings):
    return trained(4, **settings).float().to(DEVICE)


def maps(*shape, alike=True, seed=0):
    return images(*shape, alike=alike, seed=seed).float().to(DEVICE)


@pytest.mark.usefixtures('_in_kernels')
@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_every_set_of_stages(stages):
    compare(layer_of(**stages), maps(2, 4, 3, 2), **FLOAT32)


@pytest.mark.usefixtures('_in_kernels')
@pytest.mark.parametrize('stages', ['all', 'k=1', 'no affine', 'no scaling'])
def test_a_closed_gate(stages):
    layer = layer_of(condensation_threshold=0.99, **STAGES[stages])
    compare(layer, maps(2, 4, 3, 2), **FLOAT32)
    assert layer.num_batches_tracked == 0


@pytest.mark.usefixtures('_in_kernels')
@pytest.mark.parametrize('samples', [1, 8, 17])
def test_numbers_of_samples(samples):
    compare(layer_of(), maps(samples, 4, 3, 2, alike=False), **FLOAT32)


@pytest.mark.usefixtures('_in_kernels')
@pytest.mark.parametrize(
    'settings', [{'momentum': None}, {'momentum': 1.0}, {'momentum': 0.7}], ids=str
)
def test_steps_of_the_averages(settings):
    compare(layer_of(**settings), maps(2, 4, 3, 2), steps=3, **FLOAT32)


@pytest.mark.usefixtures('_in_kernels')
def test_the_gate_the_other_way_round():
    layer = layer_of(condensation_threshold=0.5)
    layer.stages.statistics.opens = 'dissimilar'
    for alike in (True, False):
        compare(layer, maps(2, 4, 3, 2, alike=alike), **FLOAT32)


@pytest.mark.usefixtures('_in_kernels')
def test_parameters_with_gaps():
    layer, dense = layer_of(), layer_of()
    for name, parameter in list(layer.named_parameters()):
        gaps = torch.stack([parameter.detach()] * 2, dim=-1)[..., 0]
        assert not gaps.is_contiguous()
        setattr(layer, name, torch.nn.Parameter(gaps))
    x = maps(2, 4, 3, 2)
    ours, theirs = gradients(layer, x, x), gradients(dense, x, x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures('_in_kernels')
def test_channels_that_are_no_power_of_two():
    layer = trained(37).float().to(DEVICE)
    compare(layer, maps(2, 37, 3, 2), **FLOAT32)
    layer = trained(130).float().to(DEVICE)  # more than one program takes backward
    compare(layer, maps(2, 130, 2, 2), **FLOAT32)


@pytest.mark.parametrize(
    ('settings', 'most'),
    [
        ({}, {'MAX_SAMPLES': 2}),
        ({}, {'MAX_CHANNELS': 1}),
        ({'condensation_feature': 'pooled'}, {}),
        ({'track_running_stats': False}, {}),
    ],
    ids=str,
)
def test_what_no_kernel_takes(settings, most, monkeypatch):
    for name, value in most.items():
        monkeypatch.setattr(triton_kernels, name, value)
    x = maps(3, 2, 2, 2)
    layer = UBN(2, **settings).to(DEVICE)
    with noting() as launches:
        layer(x)
    assert '_coefficients' not in [launch.kernel for launch in launches]
    layer = UBN(2, **settings).to(DEVICE)
    again = copy.deepcopy(layer)
    with reference_passes():
        want = again(x)
    torch.testing.assert_close(layer(x), want, **FLOAT32)


@pytest.mark.usefixtures('_in_kernels')
@pytest.mark.parametrize('spoilt', [float('nan'), float('inf')])
@pytest.mark.parametrize('settings', [{}, {'condensation_threshold': None}], ids=str)
def test_a_spoilt_batch_moves_nothing(spoilt, settings):
    layer = layer_of(**settings)
    before = copy.deepcopy(layer.state_dict())
    x = maps(2, 4, 3, 2)
    x[1, 3, 2, 1] = spoilt
    layer(x)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.usefixtures('_in_kernels')
def test_samples_of_zeros_are_like_no_other():
    layer = layer_of(condensation_threshold=0.5)
    layer.condensation.fill_(1.0)
    x = maps(2, 4, 3, 2)
    x[1] = 0
    layer(x)
    assert layer.condensation.item() == pytest.approx(0.9)


@pytest.mark.usefixtures('_in_kernels')
def test_a_repeated_forward_moves_nothing():
    layer, plain = layer_of(), layer_of()
    x = maps(2, 4, 3, 2).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    plain(x)
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())
    assert layer.num_batches_tracked == 1


def test_autograd_learns_that_averages_have_moved():
    layer = layer_of(**OFF)
    x = maps(2, 4, 3, 2).requires_grad_()
    y = layer.eval()(x)
    layer.train()(x)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


# On CPU processes.
def on_triton(task):
    function, argument = task
    with choose_passes('triton'):
        return function(argument)


class OnTriton:
    """Ranks that take the kernels."""

    def __init__(self, ranks):
        self.ranks, self.size = ranks, ranks.size

    def run(self, function, each):
        return self.ranks.run(on_triton, [(function, one) for one in each])


@INTERPRETED
@pytest.mark.parametrize(
    'shapes',
    [[(2, 4, 3, 2), (3, 4, 5, 4)], [(2, 4, 3, 2), (0, 4, 3, 2)]],
    ids=['unlike', 'one empty'],
)
@pytest.mark.parametrize(
    'settings',
    [{}, {'kernel_size': 1, 'condensation_threshold': 0.99}, OFF],
    ids=['open', 'k=1, closed', 'off'],
)
def test_ranks_equal_one_process(two_ranks, settings, shapes):
    layer = trained(4, **settings).float()
    xs = [images(*shape, seed=i).float() for i, shape in enumerate(shapes)]
    assert_equals_one_process(OnTriton(two_ranks), layer, xs, steps=2, **FLOAT32)


def kernels_of(task):
    layer, x = task
    with noting() as launches:
        layer(x).sum().backward()
    return [launch.kernel for launch in launches]


@INTERPRETED
def test_ranks_take_one_launch_on_each_side_of_a_collective(two_ranks):
    each = [(UBN(4), images(2, 4, 3, 2).float().requires_grad_())] * 2
    for kernels in OnTriton(two_ranks).run(kernels_of, each):
        assert len(kernels) == 10
        assert kernels.count('_pack') == kernels.count('_coefficients') == 1
        assert kernels.count('_gradients') == 2


def test_the_largest_layers_fit():
    assert triton_kernels.MAX_CHANNELS >= 2048 and triton_kernels.MAX_SAMPLES >= 16
