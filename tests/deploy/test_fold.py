"""Folded models compute what they computed before, borders included."""

import copy

import pytest
import torch
from helpers.layers import OFF, STAGES, images, shake, trained
from torch import nn
from torch.nn.utils import parametrize, prune

from ubn_mmdet import BGN, BNET, UBN, CentralizedConv2d, hide_padding
from ubn_mmdet.deploy import fold
from ubn_mmdet.layers import FAMILY, L2BN

REST = {
    'k=1': OFF,
    'k=3': OFF | {'kernel_size': 3},
    'k=5': OFF | {'kernel_size': 5},
    'gate': {'centering': False, 'scaling': None},
}


def conv(*args, **settings):
    torch.manual_seed(0)
    return nn.Conv2d(*args, dtype=torch.float64, **settings)


def at_rest(layer):
    """A trained layer whose centering is off and whose gate is constant."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ('centering_weight', 'scaling_weight'):
                parameter.zero_()
    return layer


def check(model):
    """Fold a model; compare, at other sizes too; the report."""
    before = copy.deepcopy(model.eval())
    report = fold(model, lambda: model(images(2, 3, 9, 7)))
    assert not any(module.training for module in model.modules())
    for size in ((9, 7), (6, 10), (1, 1)):
        x = images(2, 3, *size)
        torch.testing.assert_close(model(x), before(x), rtol=1e-12, atol=1e-12)
    return report


def kinds(model):
    return [type(module) for module in model.modules() if not list(module.children())]


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('settings', REST.values(), ids=REST)
def test_a_layer_at_rest_goes_into_the_convolution_before(settings, bias):
    norm = trained(4, **settings)
    model = nn.Sequential(conv(3, 4, 3, padding=1, bias=bias), norm, nn.ReLU())
    report = check(model)
    k = settings.get('kernel_size', 3)
    if k == 1:
        assert kinds(model) == [nn.Conv2d, nn.Identity, nn.ReLU]
        assert str(report.folds[0]) == '1: into 0'
    else:
        assert kinds(model) == [nn.Conv2d, nn.Conv2d, nn.ReLU]
        assert model[1].groups == 4 and model[1].kernel_size == (k, k)
        said = f'1: into 0 and a {k}x{k} depthwise convolution'
        assert str(report.folds[0]) == said
    assert report.left == {}


@pytest.mark.parametrize(
    'settings',
    [
        {'stride': 2},
        {'padding': 2, 'dilation': 2},
        {'padding': 1, 'padding_mode': 'reflect'},
        {'padding': 'same'},
    ],
    ids=str,
)
def test_into_any_convolution(settings):
    model = nn.Sequential(nn.ZeroPad2d(2), conv(3, 4, 3, **settings), trained(4, **OFF))
    assert check(model).folds[0].convolutions == ('1',)


def test_into_groups_and_centred_weights():
    first = CentralizedConv2d(3, 6, 1, dtype=torch.float64)
    second = conv(6, 4, 1, groups=2)
    model = nn.Sequential(first, trained(6, **REST['k=3']), second, trained(4, **OFF))
    assert [one.convolutions for one in check(model).folds] == [('0',), ('2',)]


def test_a_constant_gate_is_a_factor():
    model = nn.Sequential(conv(3, 4, 1), at_rest(trained(4)))
    assert not check(model).left


@pytest.mark.parametrize(
    'member', [m for m in FAMILY if m not in (BGN, L2BN)], ids=lambda m: m.__name__
)
def test_members_of_the_family(member):
    model = nn.Sequential(conv(3, 4, 1), at_rest(shake(member(4, dtype=torch.float64))))
    assert not check(model).left
    assert kinds(model)[1] == (nn.Conv2d if member in (UBN, BNET) else nn.Identity)


@pytest.mark.parametrize('settings', STAGES.values(), ids=STAGES)
def test_every_set_of_stages_stays_what_it_is(settings):
    model = nn.Sequential(conv(3, 4, 1), trained(4, **settings))
    report = check(model)
    learnt = [
        name
        for name in ('centering_weight', 'scaling_weight')
        if settings.get(name.split('_')[0], True)
    ]
    if learnt:
        [reason] = report.left.values()
        assert reason in [f'{name} is not zero' for name in learnt]
        assert kinds(model)[1] is UBN
    else:
        assert not report.left and kinds(model)[1] is not UBN


def test_what_cannot_be_folded_is_left_and_named():
    groups = BGN(4, num_groups=2, dtype=torch.float64)
    untracked = UBN(4, track_running_stats=False, dtype=torch.float64)
    scaled = L2BN(4, dtype=torch.float64)
    model = nn.ModuleList([groups, untracked, scaled]).eval()
    assert fold(model, lambda: None).left == {
        '0': 'GroupStatistics does not evaluate as BatchNorm',
        '1': 'it has no running statistics',
        '2': 'L2Equalizing does not evaluate as BatchNorm',
    }
    assert list(model) == [groups, untracked, scaled]


def test_plain_batchnorms_too():
    norm = shake(nn.BatchNorm2d(4, dtype=torch.float64))
    model = nn.Sequential(conv(3, 4, 1), norm)
    assert check(model).folds[0].convolutions == ('0',)


class Branches(nn.Module):
    """A convolution, a norm, and something beside."""

    def __init__(self, beside, norm=None):
        super().__init__()
        self.conv = conv(3, 4, 3, padding=1)
        self.norm = norm or trained(4, **REST['k=3'])
        self.other = trained(4, **OFF)
        self.beside = beside

    def forward(self, x):
        return self.beside(self, x)


def two_norms(self, x):
    y = self.conv(x)
    return self.norm(y) + self.other(y)


def a_sum(self, x):
    y = self.conv(x)
    return self.norm(y) + y


def a_returned_map(self, x):
    y = self.conv(x)
    return self.norm(y), y


def in_place_between(self, x):
    return self.norm(self.conv(x).relu_())


def in_place_behind(self, x):
    y = self.conv(x)
    z = self.norm(y)
    return z + y.relu_()


def another_input(self, x):
    return self.norm(self.conv(x)) + self.norm(torch.cat([x, x[:, :1]], dim=1))


def the_weight_alone(self, x):
    y = nn.functional.conv2d(x, self.conv.weight, padding=1)
    return self.norm(self.conv(x)) + y


def the_bias_alone(self, x):
    return self.norm(self.conv(x)) + self.conv.bias.sum()


def a_view(self, x):
    y = self.conv(x)
    return self.norm(y) + y[:, :, :1, :1]


@pytest.mark.parametrize(
    'beside',
    [
        two_norms,
        a_sum,
        a_returned_map,
        in_place_between,
        in_place_behind,
        another_input,
        the_weight_alone,
        the_bias_alone,
        a_view,
    ],
    ids=lambda function: function.__name__,
)
def test_a_convolution_that_others_use_is_left_alone(beside):
    model = Branches(beside)
    before = copy.deepcopy(model.conv)
    report = check(model)
    assert all(not one.convolutions for one in report.folds)
    torch.testing.assert_close(model.conv.state_dict(), before.state_dict())
    # A BatchNorm, and a convolution of the kernel.
    assert [type(part) for part in model.norm] == [nn.BatchNorm2d, nn.Conv2d]
    assert type(model.other) is nn.BatchNorm2d


def test_convolutions_that_share_a_weight_do_so_no_more():
    model = nn.Sequential(conv(3, 3, 1), trained(3, **OFF), conv(3, 3, 1))
    model[2].weight = model[0].weight
    check(model)
    assert model[2].weight is not model[0].weight


def test_a_convolution_with_hooks_is_left_alone():
    model = nn.Sequential(conv(3, 4, 1), trained(4, **OFF))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert check(model).folds[0].convolutions == ()


def test_unknown_convolutions_are_left_alone():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight / self.weight.std(), self.bias)

    model = nn.Sequential(Standardized(3, 4, 1, dtype=torch.float64), trained(4, **OFF))
    assert check(model).folds[0].convolutions == ()


def shared_tower(self, x):
    return [self.norm(self.conv(one)) for one in (x, x[:, :, ::2])][0]


def test_a_pair_that_is_called_several_times_is_folded():
    model = Branches(shared_tower)
    assert check(model).folds[0].convolutions == ('conv',)


def test_one_norm_behind_two_convolutions():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 4, 1), conv(3, 4, 3, padding=1)
            self.norm = trained(4, **REST['k=3'])
            self.alias = self.norm

        def forward(self, x):
            return self.norm(self.a(x)) * self.alias(self.b(x))

    model = Two()
    assert check(model).folds[0].convolutions == ('a', 'b')
    assert model.alias is model.norm


def test_a_layer_that_is_not_reached_becomes_batchnorm():
    model = Branches(lambda self, x: self.conv(x))
    y = images(2, 4, 5, 5)
    model.eval()
    want = model.norm(y), model.other(y)
    report = check(model)
    assert [one.convolutions for one in report.folds] == [(), ()]
    got = model.norm(y), model.other(y)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_training_mode_is_refused():
    model = nn.Sequential(conv(3, 4, 1), trained(4, **OFF))
    with pytest.raises(ValueError, match=r'^1 is in training mode: call eval\(\)'):
        fold(model, lambda: model(images(2, 3, 5, 5)))
    with pytest.raises(ValueError, match='the model is a norm layer'):
        fold(trained(4, **OFF).eval(), lambda: None)
    assert kinds(model) == [nn.Conv2d, UBN]


def test_a_model_that_hides_padding_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), UBN(4), nn.MaxPool2d(2)).eval()
    hide_padding(model)
    with pytest.raises(ValueError, match='leaves padding out'):
        fold(model, lambda: model(torch.randn(1, 3, 4, 4)))


def test_the_folded_model_is_for_inference_alone():
    model = nn.Sequential(conv(3, 4, 1), trained(4, **REST['k=3'])).eval()
    fold(model, lambda: model(images(2, 3, 5, 5)))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize('settings', REST.values(), ids=REST)
def test_half_precision_is_rounded_once(settings):
    layer = at_rest(trained(4, **settings))
    model = nn.Sequential(conv(3, 4, 1), layer).float().eval()
    model[0].to(torch.bfloat16)
    exact = copy.deepcopy(model).double()
    x = images(2, 3, 5, 5)
    fold(model, lambda: model(x.bfloat16()))
    assert model[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(
        model(x.bfloat16()).double(), exact(x), rtol=0.05, atol=0.1
    )


def test_the_report_names_everything():
    model = nn.Sequential(
        conv(3, 4, 1), trained(4, **OFF), trained(4, **REST['k=3']), trained(4)
    )
    assert str(check(model)).splitlines() == [
        '1 norm layers folded into convolutions, 1 into BatchNorm, 1 left',
        '1: into 0',
        '2: into a BatchNorm and a 3x3 depthwise convolution',
        '3: left, scaling_weight is not zero',
    ]


@pytest.mark.parametrize('kind', [BNET, nn.BatchNorm2d])
def test_a_pruned_layer_is_left_and_named(kind):
    norm = prune.l1_unstructured(kind(4).double(), 'weight', amount=2)
    model = nn.Sequential(conv(3, 4, 3), norm).eval()
    x = images(2, 3, 9, 7)
    want = model(x)
    report = fold(model, lambda: model(x))
    assert not report.folds and 'prune' in report.left['1']
    torch.testing.assert_close(model(x), want, rtol=0, atol=0)


def test_a_parametrized_layer_is_left_and_named():
    norm = trained(4, **OFF)
    parametrize.register_parametrization(norm, 'weight', nn.Tanh())
    model = nn.Sequential(conv(3, 4, 3, padding=1), norm)
    assert 'parametrization' in check(model).left['1']
