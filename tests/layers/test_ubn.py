"""The layer's numbers, against its definition in float64."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from helpers import definition
from helpers.layers import STAGES, compare, images, state_of, trained

from ubn_mmdet import UBN, reference_passes


@pytest.fixture(autouse=True, params=['fused', 'reference'])
def _passes(request):
    """Every number holds for both implementations of the passes."""
    with nullcontext() if request.param == 'fused' else reference_passes():
        yield


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_every_stage_equals_the_definition(stages, training):
    compare(trained(**stages).train(training), images(4, 3, 6, 5), steps=2)


@pytest.mark.parametrize('feature', ['flat', 'pooled'])
@pytest.mark.parametrize('samples', [1, 2, 16, 19])
@pytest.mark.parametrize('condensation', [1.0, 0.01], ids=['open', 'closed'])
def test_both_sides_of_the_gate(feature, samples, condensation):
    layer = trained(condensation_feature=feature)
    layer.condensation.fill_(condensation)
    x = images(samples, 3, 5, 4, alike=False)
    if samples == 1:  # alone it counts as condensed: 0.9 c + 0.1
        layer.condensation_threshold = 0.5
    before = layer.running_mean.clone()
    compare(layer, x)
    is_open = bool(layer.condensation > layer.condensation_threshold)
    assert is_open == (condensation == 1.0)
    assert torch.equal(layer.running_mean, before) != is_open
    assert layer.num_batches_tracked == int(is_open)


@pytest.mark.parametrize('condensation', [1.0, 0.01], ids=['closed', 'open'])
def test_the_reversed_gate(condensation):
    layer = trained(condensation_opens='dissimilar')
    layer.condensation.fill_(condensation)
    before = layer.running_mean.clone()
    compare(layer, images(4, 3, 5, 4, alike=False))
    assert torch.equal(layer.running_mean, before) == (condensation == 1.0)
    layer.condensation_threshold = 0.5
    assert layer.stages.statistics.opens == 'dissimilar'


def test_the_gate_closes_after_eighteen_dissimilar_batches_at_the_earliest():
    layer = UBN(2, dtype=torch.float64)
    x = torch.eye(4, dtype=torch.float64).reshape(4, 2, 1, 2)  # all cosines are zero
    for _ in range(30):
        layer(x)
    assert layer.num_batches_tracked == 18


def test_a_sample_of_zeros_is_like_no_other():
    x = images(3, 2, 4, 4)
    x[1] = 0
    for feature, map_ in {'flat': x, 'pooled': definition.gap(x)}.items():
        layer = UBN(2, dtype=torch.float64, condensation_feature=feature)
        layer(x)
        a, b = map_[0].flatten(), map_[2].flatten()
        mean_cosine = 2 * (a @ b / (a.norm() * b.norm())) / 6
        torch.testing.assert_close(layer.condensation, 0.9 + 0.1 * mean_cosine)


@pytest.mark.parametrize(
    ('stages', 'is_open'),
    [*itertools.product(STAGES, [True]), ('all', False), ('k=1', False)],
)
def test_gradcheck(stages, is_open):
    layer = trained(2, **STAGES[stages])
    names = [name for name, _ in layer.named_parameters()]

    def forward(x, *parameters):
        if layer.condensation is not None:  # each call starts on the same side
            layer.condensation.fill_(1.0 if is_open else 0.0)
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, values, (x,))

    x = images(3, 2, 3, 4, alike=False).requires_grad_()
    if not is_open:
        layer.condensation_threshold = 0.9
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(forward, (x, *parameters))


def test_momentum_none_averages_the_batches_that_moved_the_statistics():
    layer = UBN(2, momentum=None, dtype=torch.float64)
    batches = [images(3, 2, 4, 4, seed=seed) for seed in range(3)]
    for batch in batches:
        layer(batch)
    layer.condensation.fill_(-1.0)  # far below the threshold: one batch is left out
    layer(images(3, 2, 4, 4, seed=9))
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean)


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.float32, 1e-5), (torch.bfloat16, 0.04), (torch.float16, 0.005)],
)
def test_dtypes_and_memory_formats(memory_format, kernel_size, dtype, tolerance):
    layer = trained(4, kernel_size=kernel_size).to(torch.float32)
    x = images(3, 4, 6, 5).to(dtype, memory_format=memory_format)
    expected, _ = definition.ubn(
        x.double(), state_of(layer.to(torch.float64)), training=True
    )
    y = layer.to(torch.float32)(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_autocast_does_not_reach_inside(kernel_size):
    layer = trained(4, kernel_size=kernel_size).to(torch.float32)
    x = images(3, 4, 6, 5).float()
    outside = layer.eval()(x)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(layer(x), outside, rtol=0, atol=0)


def test_large_means_keep_their_variance():
    x = 3000 + images(4, 2, 16, 16, alike=False).float()
    layer = UBN(2, momentum=1.0)
    layer(x)
    want = x.double().var((0, 2, 3))
    torch.testing.assert_close(layer.running_var.double(), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize('value', [torch.inf, torch.nan])
@pytest.mark.parametrize('feature', ['flat', 'pooled'])
def test_one_bad_batch_leaves_the_statistics_alone(feature, value):
    layer = trained(condensation_feature=feature)
    x = images(4, 3, 5, 5)
    bad = x.clone()
    bad[1, 1, 2, 2] = value
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer(bad)
    torch.testing.assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)
    compare(layer, x)


def test_one_bad_batch_does_not_count_in_the_cumulative_average():
    layer = UBN(2, momentum=None, dtype=torch.float64)
    batches = [images(3, 2, 4, 4, seed=seed) for seed in range(3)]
    bad = batches[0].clone()
    bad[0, 1, 0, 0] = torch.inf
    for batch in (batches[0], bad, *batches[1:]):
        layer(batch)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean)
    assert layer.num_batches_tracked == 3


def test_the_callers_tensor_is_never_changed():
    for settings in STAGES.values():
        x = images(4, 3, 5, 5)
        before = x.clone()
        trained(**settings)(x)
        assert torch.equal(x, before)
