"""Any PyTorch model's batch norms, swapped: it computes what it computed before."""

import copy

import pytest
import torch
from helpers.layers import images, shake
from torch import nn

from ubn_mmdet import UBN, convert_batchnorm
from ubn_mmdet.deploy import fold


class Net(nn.Module):
    """A norm in each kind of place, one of them in two."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(inplace=True))
        self.norms = nn.ModuleDict({'a_b': norm(4, momentum=None)})
        self.shared = norm(4, eps=1e-3)
        self.blocks = nn.ModuleList([self.shared, self.shared])
        self.flat = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.norms['a_b'](self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.flat(x.mean((2, 3)))


def net(**settings):
    torch.manual_seed(0)
    model = Net(**settings)
    for _ in range(3):
        model(torch.randn(4, 3, 8, 8))
    return model


@pytest.mark.parametrize('training', [True, False])
def test_it_computes_what_it_computed_before(training):
    before = net().train(training)
    after = convert_batchnorm(copy.deepcopy(before))
    assert sum(isinstance(m, UBN) for m in after.modules()) == 3
    assert isinstance(after.flat, nn.BatchNorm1d)
    for seed in range(2):  # statistics have moved alike
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(after(x), before(x), rtol=1e-4, atol=1e-5)


def test_what_it_keeps():
    before = net().double()
    before.stem[1].eval().requires_grad_(False)
    parameters = dict(before.named_parameters())
    after = convert_batchnorm(before, kernel_size=5)
    assert after is before
    stem = after.stem[1]
    assert not stem.training and after.shared.training
    assert not any(p.requires_grad for p in stem.parameters())
    assert all(p.requires_grad for p in after.shared.parameters())
    for name, parameter in parameters.items():  # optimizers hold them
        assert after.get_parameter(name) is parameter
    assert {t.dtype for t in stem.state_dict().values()} == {torch.float64, torch.int64}
    assert after.shared.eps == 1e-3 and after.norms['a_b'].momentum is None
    assert after.blocks[0] is after.blocks[1] is after.shared
    assert stem.spatial_weight.shape == (4, 5, 5)


def test_synchronisation_is_that_of_the_layer_before():
    assert not convert_batchnorm(nn.BatchNorm2d(4)).sync
    assert convert_batchnorm(nn.SyncBatchNorm(4)).sync
    assert convert_batchnorm(nn.BatchNorm2d(4), sync=True).sync


@pytest.mark.parametrize(
    'settings',
    [
        {'affine': False},
        {'track_running_stats': False},
        {'affine': False, 'track_running_stats': False},
        {'bias': False},
    ],
)
def test_batchnorms_of_every_kind(settings):
    if 'bias' in settings:
        pytest.importorskip('torch', minversion='2.9')
    norm = nn.BatchNorm2d(4, **settings)
    x = torch.randn(3, 4, 5, 5)
    norm(x)
    layer = convert_batchnorm(copy.deepcopy(norm))
    for module in (norm, layer):
        module.eval()
    torch.testing.assert_close(layer(x), norm(x))


def test_what_is_skipped_stays():
    model = convert_batchnorm(net(), skip=lambda name, layer: name.startswith('stem'))
    assert type(model.stem[1]) is nn.BatchNorm2d
    assert isinstance(model.shared, UBN)
    # A layer in several places stays if one of them is named.
    model = convert_batchnorm(net(), skip=lambda name, layer: name == 'blocks.1')
    assert type(model.shared) is nn.BatchNorm2d


def test_layers_of_the_family_stay():
    layer = UBN(4)
    assert convert_batchnorm(layer) is layer


class BatchNormAct2d(nn.BatchNorm2d):
    """A subclass with an activation, as timm's of this name."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.PReLU(channels)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_what_a_subclass_applies_after_it_is_kept():
    before = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4)).double()
    after = convert_batchnorm(copy.deepcopy(before), kernel_size=1)
    assert isinstance(after[1], UBN) and isinstance(after[1].act, nn.PReLU)
    assert after.state_dict().keys() >= before.state_dict().keys()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(after(x), before(x))
    folded = copy.deepcopy(after).eval()
    fold(folded, lambda: folded(x))
    assert not any(isinstance(module, UBN) for module in folded.modules())
    torch.testing.assert_close(folded(x), before.eval()(x))


@pytest.mark.parametrize(
    'child',
    [  # of a kind that folding makes, and of one that it replaces
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        shake(nn.BatchNorm2d(4)),
    ],
)
@pytest.mark.parametrize('norm', ['UBN', 'BNET'])
def test_folding_leaves_what_is_applied_after_alone(child, norm):
    layer = BatchNormAct2d(4)
    layer.act = copy.deepcopy(child)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer).double().eval()
    convert_batchnorm(model, norm)
    model[1].spatial_weight.data.normal_()
    x = images(2, 3, 6, 5)
    want = model(x)
    fold(model, lambda: model(x))
    torch.testing.assert_close(model(x), want)


def test_a_layer_may_be_called_with_the_name_of_its_input():
    x = images(2, 4, 6, 5)
    norm = nn.BatchNorm2d(4).double()
    want = norm(input=x)
    torch.testing.assert_close(convert_batchnorm(norm)(input=x), want)


class OtherBatchNorm(nn.BatchNorm1d):
    """A subclass of what is left alone."""


def test_a_lazy_layer_is_named_and_layers_of_other_inputs_are_left_alone():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    with pytest.raises(
        ValueError, match='0 is a LazyBatchNorm2d .* run the model once, then'
    ):
        convert_batchnorm(model)
    kinds = nn.LazyBatchNorm1d, nn.BatchNorm3d, OtherBatchNorm
    others = nn.Sequential(nn.LazyBatchNorm1d(), nn.BatchNorm3d(2), OtherBatchNorm(2))
    assert tuple(map(type, convert_batchnorm(others))) == kinds


class GhostBatchNorm(nn.BatchNorm2d):
    """A subclass that does something else, and only in training."""

    def forward(self, x):
        parts = x.split(16) if self.training else [x]
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in parts])


def test_a_subclass_with_its_own_forward_is_refused_and_nothing_replaced():
    model = nn.Sequential(nn.BatchNorm2d(4), GhostBatchNorm(4))
    with pytest.raises(ValueError, match='1 is a GhostBatchNorm'):
        convert_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d
    convert_batchnorm(model, skip=lambda name, layer: isinstance(layer, GhostBatchNorm))
    assert isinstance(model[0], UBN)


def test_a_parametrized_layer_is_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None)
    with pytest.raises(ValueError, match='is a ParametrizedBatchNorm2d'):
        convert_batchnorm(layer)


class SyncBatchNormOfAnyShape(nn.SyncBatchNorm):
    """A subclass in the manner of MMEngine's: its forward is PyTorch's."""

    def _check_input_dim(self, input):
        return


def test_a_subclass_without_one_is_what_it_is_derived_from():
    assert convert_batchnorm(SyncBatchNormOfAnyShape(4)).sync


def test_a_layer_without_tensors_goes_where_the_others_are():
    stateless = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, dtype=torch.float64), stateless)
    assert convert_batchnorm(model)[1].centering_weight.dtype == torch.float64


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm must be .*'UBN'.*got 'GN'"):
        convert_batchnorm(nn.BatchNorm2d(4), 'GN')
    assert isinstance(convert_batchnorm(nn.BatchNorm2d(4), UBN), UBN)
