"""The centre of a kernel is one parameter, ``weight``, in every path."""

import copy

import pytest
import torch
from helpers.layers import images

from ubn_mmdet import UBN
from ubn_mmdet.layers.stages.affine import AUTHORS_GATE
from ubn_mmdet.ops.passes import choose_passes

PAPER = {'initial_weight': 0, 'initial_spatial': 'kaiming'}


@pytest.mark.parametrize('passes', ['fused', 'reference', 'traced'])
def test_the_centre_of_the_spatial_weight_takes_no_part(passes):
    torch.manual_seed(0)
    layer = UBN(4, kernel_size=5, dtype=torch.float64, **PAPER)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.spatial_weight[:, 2, 2] = 7
    x = images(3, 4, 6, 5)
    if passes == 'traced':
        layer, other = (torch.jit.trace(n.eval(), x) for n in (layer, other))
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
        return
    with choose_passes(passes):
        y = other(x)
        torch.testing.assert_close(y, layer(x), rtol=0, atol=0)
        y.square().sum().backward()
    grad = other.spatial_weight.grad
    assert not grad[:, 2, 2].any() and grad.count_nonzero() == 4 * 24


@pytest.mark.parametrize(
    ('start', 'deviation'),
    [('kaiming', AUTHORS_GATE * (2 / (9 * 1024)) ** 0.5), ('fan_in', 1 / 3)],
)
def test_a_random_start_draws_the_centre_into_weight(start, deviation):
    torch.manual_seed(0)
    layer = UBN(1024, initial_weight=0, initial_spatial=start)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
    around = layer.spatial_weight.flatten(1)[:, [0, 1, 2, 3, 5, 6, 7, 8]]
    assert around.std().item() == pytest.approx(deviation, rel=0.1)
    assert not layer.spatial_weight[:, 1, 1].any()
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize('version', [2, None])
def test_an_older_checkpoint_has_its_centre_added_to_weight(version):
    old = UBN(4, kernel_size=3, **PAPER).state_dict()
    old['spatial_weight'] = torch.randn(4, 3, 3)
    given = {name: tensor.clone() for name, tensor in old.items()}
    if version:
        old._metadata['']['version'] = version
    else:
        old = dict(old)  # without metadata, as some tools save it
    layer = UBN(4)
    layer.load_state_dict(old)
    assert torch.equal(layer.weight, given['weight'] + given['spatial_weight'][:, 1, 1])
    assert not layer.spatial_weight[:, 1, 1].any()
    assert torch.equal(layer.spatial_weight[:, 0], given['spatial_weight'][:, 0])
    assert torch.equal(old['spatial_weight'], given['spatial_weight'])  # not the file's
    again = UBN(4)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, layer.weight)
