"""The layer's numbers, against its definition in float64."""

import pytest
import torch
from helpers import definition
from helpers.layers import STAGES, compare, images, trained

from ubn_mmdet import UBN


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


def test_the_gate_stays_open_until_the_statistics_have_moved_often_enough():
    layer = UBN(2, dtype=torch.float64, condensation_min_updates=25)
    x = torch.eye(4, dtype=torch.float64).reshape(4, 2, 1, 2)
    for _ in range(30):
        assert layer.gate_is_open == (layer.num_batches_tracked < 25)
        layer(x)
    assert layer.num_batches_tracked == 25
    layer.condensation_threshold = 0.1
    assert layer.stages.statistics.min_updates == 25
    layers = layer, UBN(2, condensation_threshold=None)
    for each, value in zip(layers, (None, 0.1), strict=True):
        with pytest.raises(ValueError, match='built with a gate or without'):
            each.condensation_threshold = value
    assert layers[1].gate_is_open is None and UBN(2, affine=False).gate_is_open


def test_a_sample_of_zeros_is_like_no_other():
    x = images(3, 2, 4, 4)
    x[1] = 0
    for feature, map_ in {'flat': x, 'pooled': definition.gap(x)}.items():
        layer = UBN(2, dtype=torch.float64, condensation_feature=feature)
        layer(x)
        a, b = map_[0].flatten(), map_[2].flatten()
        mean_cosine = 2 * (a @ b / (a.norm() * b.norm())) / 6
        torch.testing.assert_close(layer.condensation, 0.9 + 0.1 * mean_cosine)


@pytest.mark.parametrize('stages', ['all', 'k=1'])
def test_gradcheck_with_the_gate_closed(stages):
    layer = trained(2, condensation_threshold=0.9, **STAGES[stages])
    names = [name for name, _ in layer.named_parameters()]

    def forward(x, *parameters):
        layer.condensation.fill_(0.0)  # each call starts on the same side
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, values, (x,))

    x = images(3, 2, 3, 4, alike=False).requires_grad_()
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
