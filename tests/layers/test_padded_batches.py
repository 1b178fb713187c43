"""Padded batches, against the definition on the images as they were before padding."""

import copy

import pytest
import torch
import torch.utils.checkpoint as cp
from helpers import definition
from helpers.definitions import define
from helpers.layers import STAGES, images, shake, state_of, trained
from helpers.reads_back import ReadsBack
from torch import nn
from torch.nn import functional as F

from ubn_mmdet import (
    BGN,
    BNET,
    IEBN,
    MABN,
    RBN,
    UBN,
    BatchRenorm,
    InitBN,
    PowerNorm,
    hide_padding,
    padded_images,
)

CLOSE = {'rtol': 1e-9, 'atol': 1e-10}
C = 4
# Sizes in pixels; at stride 2 the maps are 4 x 5, 2 x 6 and 5 x 1.
SIZES = (7, 9), (3, 12), (10, 2)
PADDED = (12, 14)
STRIDE = 2
LAYERS = {
    **{
        f'UBN, {name}': (UBN, STAGES[name])
        for name in ('all', 'k=5', 'no gate', 'no affine', 'all off')
    },
    'UBN, pooled': (UBN, {'condensation_feature': 'pooled'}),
    'UBN, no statistics': (UBN, {'track_running_stats': False}),
    'RBN': (RBN, {}),
    'IEBN': (IEBN, {}),
    'BNET': (BNET, {}),
    'BGN': (BGN, {'num_groups': 2}),
    'InitBN': (InitBN, {}),
    'BatchRenorm': (BatchRenorm, {'plain_steps': 0, 'r_steps': 1, 'd_steps': 1}),
    'MABN': (MABN, {'memory_size': 2, 'warmup_steps': 0, 'renorm_steps': 0}),
    'PowerNorm': (PowerNorm, {'warmup_steps': 0}),
}
EVERY = pytest.mark.parametrize('kind', LAYERS.values(), ids=LAYERS)
MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


def make(kind):
    norm, settings = kind
    return shake(norm(C, dtype=torch.float64, **settings))


def maps(sizes=SIZES, seed=0):
    """One map an image, ``(1, C, h, w)``, of the image's size at the stride."""
    return [
        images(1, C, -(-h // STRIDE), -(-w // STRIDE), seed=seed + i)
        for i, (h, w) in enumerate(sizes)
    ]


def stack(xs, padded=PADDED, fill=torch.nan):
    """A batch of maps, padded at the right and at the bottom."""
    height, width = (-(-side // STRIDE) for side in padded)
    return torch.cat(
        [
            F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), value=fill)
            for x in xs
        ]
    )


def parts(batch, like):
    """The maps of a batch without their padding, which must be zeros."""
    for row, x in zip(batch, like, strict=True):
        h, w = x.shape[2:]
        assert not row[:, h:].any() and not row[:, :, w:].any()
    return cropped(batch, like)


def cropped(batch, like):
    """Each sample of a batch in the size of ``like``, whatever lies beyond."""
    return [
        row[None, :, : x.shape[2], : x.shape[3]]
        for row, x in zip(batch, like, strict=True)
    ]


def flat_condensation(xs):
    """The mean cosine of maps that zeros have brought to one size."""
    vectors = stack(xs, fill=0.0).flatten(1)
    cosines = F.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    n = len(xs)
    return (cosines.sum() - n) / (n * (n - 1))


@EVERY
@MODES
def test_all_is_as_on_the_images_before_padding(kind, training, monkeypatch):
    # Each image as a rank of its own: the definition then merges what differs in size.
    # Whole maps of ranks it does not compare; of images, we do.
    pooled = definition.condensation
    monkeypatch.setattr(
        definition,
        'condensation',
        lambda xs, feature: (
            flat_condensation(xs) if feature == 'flat' else pooled(xs, feature)
        ),
    )
    layer = make(kind).train(training)
    state = state_of(layer)
    for step in range(2):
        xs = [x.requires_grad_() for x in maps(seed=step)]
        batch = stack([x.detach() for x in xs]).requires_grad_()
        with padded_images(SIZES, PADDED):
            y = layer(batch)
        expected, state = define(layer, xs, state)
        torch.testing.assert_close(parts(y, xs), expected, **CLOSE)
        upstream = [images(*x.shape, seed=50) for x in xs]
        layer.zero_grad()
        y.backward(stack(upstream, fill=7.0))  # what is there has no effect
        loss = sum((a * b).sum() for a, b in zip(expected, upstream, strict=True))
        names = [name for name, _ in layer.named_parameters()]
        (*grad_xs,) = torch.autograd.grad(loss, xs + [state[name] for name in names])
        torch.testing.assert_close(parts(batch.grad, xs), grad_xs[: len(xs)], **CLOSE)
        got = [parameter.grad for parameter in layer.parameters()]
        torch.testing.assert_close(got, grad_xs[len(xs) :], **CLOSE)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffer, state[name], **CLOSE)


@pytest.mark.parametrize('name', ['UBN, all', 'UBN, pooled', 'BGN', 'MABN'])
def test_the_amount_of_padding_has_no_effect(name):
    layer = make(LAYERS[name])
    states = []
    for padded in [(10, 12), (12, 14), (40, 64)]:
        again = copy.deepcopy(layer)
        with padded_images(SIZES, padded):
            again(stack(maps(), padded))
        states.append(again.state_dict())
    torch.testing.assert_close(states[1], states[0], **CLOSE)
    torch.testing.assert_close(states[2], states[0], **CLOSE)
    again = copy.deepcopy(layer)
    again(stack(maps(), fill=0.0))  # it would have, were it not announced
    assert not torch.allclose(again.running_var, states[0]['running_var'])


@MODES
def test_gradcheck(training):
    layer = trained(2).train(training)
    names = [name for name, _ in layer.named_parameters()]
    sizes, padded = [(2, 3), (4, 1)], (4, 4)

    def forward(x, *parameters):
        state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        state |= zip(names, parameters, strict=True)
        with padded_images(sizes, padded):
            return torch.func.functional_call(layer, state, (x,))

    x = images(2, 2, 4, 4, alike=False).requires_grad_()
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(forward, (x, *parameters), fast_mode=True)


class Net(nn.Module):
    """A stem and two residual blocks of a ResNet."""

    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(0)

        def conv(i, o, k, s):
            return nn.Conv2d(i, o, k, s, k // 2, bias=False)

        self.convs = nn.ModuleList(
            [conv(3, C, 7, 2), conv(C, C, 3, 1), conv(C, C, 3, 1)]
            + [conv(C, C, 3, 2), conv(C, C, 3, 1), conv(C, C, 1, 2)]
        ).double()
        # As in a feature pyramid: a bias, no norm, and a convolution behind it.
        self.lateral = nn.Conv2d(C, C, 1).double()
        self.last = nn.Conv2d(C, C, 3, padding=1).double()
        self.norms = nn.ModuleList([trained(C, **settings) for _ in self.convs])

    def forward(self, x):
        return self.on(x, lambda norm, x: norm(x), lambda f, *xs: f(*xs))

    def on(self, x, normalise, each):
        """The network, with its two kinds of operation given."""

        def norm(i, x):
            return normalise(self.norms[i], each(self.convs[i], x))

        x = each(F.relu, norm(0, x))
        x = each(lambda x: F.max_pool2d(x, 3, 2, 1), x)
        y = norm(2, each(F.relu, norm(1, x)))
        x = each(lambda a, b: F.relu(a + b), x, y)
        y = norm(4, each(F.relu, norm(3, x)))
        x = each(lambda a, b: F.relu(a + b), norm(5, x), y)
        return each(self.last, each(self.lateral, x))

    def on_each(self, pictures, states):
        """The definition, on images of any sizes; moves ``states``, by norm layer."""

        def normalise(norm, xs):
            ys, states[norm] = define(norm, xs, states[norm])
            return ys

        return self.on(pictures, normalise, lambda f, *xs: list(map(f, *xs)))


PICTURES = (45, 33), (20, 64), (61, 50)


@MODES
@pytest.mark.parametrize('padded', [(61, 64), (64, 64), (96, 160)], ids=str)
def test_a_network_computes_what_it_does_on_images_that_are_not_padded(
    training, padded
):
    net = Net(condensation_feature='pooled').train(training)
    for _ in range(2):
        hide_padding(net)
    assert all(len(conv._forward_pre_hooks) == 1 for conv in net.convs[:-1])
    states = {norm: state_of(norm) for norm in net.norms}
    pictures = [images(1, 3, *size, seed=i) for i, size in enumerate(PICTURES)]
    expected = net.on_each(pictures, states)
    batch = torch.cat(
        [
            F.pad(p, (0, padded[1] - p.shape[3], 0, padded[0] - p.shape[2]))
            for p in pictures
        ]
    )
    with padded_images(PICTURES, padded):
        y = cropped(net(batch), expected)
    torch.testing.assert_close(y, expected, **CLOSE)
    for norm in net.norms:
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(buffer, states[norm][name], **CLOSE)
    grads, wanted = (
        torch.autograd.grad(sum(y.square().sum() for y in ys), net.convs.parameters())
        for ys in (y, expected)
    )
    torch.testing.assert_close(grads, wanted, **CLOSE)


@pytest.mark.parametrize('reentrant', [True, False])
def test_activation_checkpointing_knows_it_in_the_backward(reentrant):
    """Which comes after the announcement has ended."""
    results = []
    for call in (
        lambda layer, x: layer(x),
        lambda layer, x: cp.checkpoint(layer, x, use_reentrant=reentrant),
    ):
        layer, x = trained(C), stack(maps(), fill=1.0).requires_grad_()
        with padded_images(SIZES, PADDED):
            y = call(layer, x)
        y.square().sum().backward()
        results.append([x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results)


def test_the_host_waits_once_for_the_sizes_of_a_batch():
    """At the first layer that asks; not at every norm and every convolution."""
    net = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), UBN(C), UBN(C))
    hide_padding(net)
    x = stack(maps(), fill=1.0).float()
    with padded_images(SIZES, PADDED):
        UBN(C)(x)
        with ReadsBack():
            net(x)


def test_a_single_image_passes_a_convolution_as_it_is():
    conv = nn.Conv2d(2, 3, 3)
    x = torch.randn(2, 6, 6)
    want = conv(x)
    hide_padding(conv)
    with padded_images([(6, 6), (3, 3)], (6, 6)):
        assert torch.equal(conv(x), want)


def test_it_ends_with_the_announcement():
    layer, again = trained(C), trained(C)
    x = stack(maps(), fill=1.0)
    with padded_images(SIZES, PADDED):
        layer(x)
    layer.load_state_dict(again.state_dict())
    torch.testing.assert_close(layer(x), again(x), rtol=0, atol=0)


def test_a_layer_apart_takes_its_maps_as_they_are():
    layer, again = trained(C), trained(C)
    x = stack(maps(), fill=1.0)
    with padded_images(SIZES, PADDED, exclude=layer.modules()):
        y = layer(x)
    torch.testing.assert_close(y, again(x), rtol=0, atol=0)


def test_groups_that_cut_maps_are_refused():
    layer = BGN(C, num_groups=3, dtype=torch.float64)
    x = stack(maps(), fill=0.0)
    before = copy.deepcopy(layer.state_dict())
    with (
        padded_images(SIZES, PADDED),
        pytest.raises(ValueError, match='num_groups must divide num_features = 4.*3'),
    ):
        layer(x)
    torch.testing.assert_close(layer.state_dict(), before)


def test_one_valid_value_per_channel_is_refused_in_training():
    layer = trained(C)
    with (
        padded_images([(1, 1)], (8, 8)),
        pytest.raises(ValueError, match='more than 1 value per channel'),
    ):
        layer(images(1, C, 4, 4))


def step(task):
    """One rank's part of a training step."""
    layer, x, upstream, sizes, padded = task
    x.requires_grad_()
    with padded_images(sizes, padded):
        y = layer(x)
    y.backward(upstream)
    gradients = [parameter.grad for parameter in layer.parameters()]
    return y.detach(), x.grad, gradients, dict(layer.named_buffers())


@pytest.mark.parametrize('name', ['UBN, pooled', 'UBN, no gate', 'MABN', 'PowerNorm'])
def test_ranks_that_are_padded_differently_equal_one_process(name, two_ranks):
    layer = make(LAYERS[name])
    state = state_of(layer)
    shares = [SIZES[:2], SIZES[2:]]
    paddings = [(8, 12), (10, 64)]
    xs = [maps(sizes, seed=10 * rank) for rank, sizes in enumerate(shares)]
    upstream = [[images(*x.shape, seed=50) for x in share] for share in xs]
    tasks = [
        (layer, stack(x, padded), stack(g, padded, 0.0), sizes, padded)
        for x, g, sizes, padded in zip(xs, upstream, shares, paddings, strict=True)
    ]
    results = two_ranks.run(step, tasks)
    flat = [x.requires_grad_() for share in xs for x in share]
    expected, state = define(layer, flat, state)
    flat_upstream = [g for share in upstream for g in share]
    loss = sum((a * b).sum() for a, b in zip(expected, flat_upstream, strict=True))
    names = [name for name, _ in layer.named_parameters()]
    grads = torch.autograd.grad(loss, flat + [state[name] for name in names])
    ys, grad_xs = [], []
    for result, share in zip(results, xs, strict=True):
        ys += parts(result[0], share)
        grad_xs += parts(result[1], share)
        for name, buffer in result[3].items():
            torch.testing.assert_close(buffer, state[name], **CLOSE)
    torch.testing.assert_close(ys, expected, **CLOSE)
    torch.testing.assert_close(grad_xs, list(grads[: len(flat)]), **CLOSE)
    summed = [a + b for a, b in zip(results[0][2], results[1][2], strict=True)]
    torch.testing.assert_close(summed, list(grads[len(flat) :]), **CLOSE)


def test_a_batch_may_be_seen_in_inference_mode_first():
    """As a teacher sees it before its student."""
    teacher, student = UBN(C), UBN(C)
    x = stack(maps(), fill=0.0).float().requires_grad_()
    with padded_images(SIZES, PADDED):
        with torch.inference_mode():
            teacher(x)
        student(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('by_name', [False, True])
def test_a_convolution_keeps_its_other_arguments(by_name):
    class Masked(nn.Conv2d):
        def forward(self, x, mask):
            return super().forward(x) * mask

    convolution = Masked(C, 2, 3).double()
    hide_padding(convolution)
    x, mask = stack(maps(), fill=7.0), torch.rand(1)
    arguments = (), {'x': x, 'mask': mask}
    if not by_name:
        arguments = (x,), {'mask': mask}
    with padded_images(SIZES, PADDED):
        found = convolution(*arguments[0], **arguments[1])
        want = convolution(x, mask=torch.ones(1)) * mask
    torch.testing.assert_close(found, want)


def test_a_convolution_may_get_its_input_by_name():
    convolution = nn.Conv2d(C, 2, 3).double()
    hide_padding(convolution)
    x = stack(maps(), fill=7.0)
    with padded_images(SIZES, PADDED):
        found, want = convolution(input=x), convolution(x)
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    assert not torch.equal(found, convolution(x))


POOLING = {
    'max': nn.MaxPool2d(3, 2, padding=1),
    'max of whole windows': nn.MaxPool2d(5, 1, padding=2),
    'average': nn.AvgPool2d(3, 2, padding=1),
    'average without the border': nn.AvgPool2d(
        3, 2, padding=1, count_include_pad=False
    ),
    'average of the last half': nn.AvgPool2d(2, 2, ceil_mode=True),
    'sum': nn.AvgPool2d(3, 1, padding=1, divisor_override=1),
    'global': nn.AdaptiveAvgPool2d(1),
}


@pytest.mark.parametrize('pooling', POOLING.values(), ids=POOLING)
def test_pooling_takes_the_images_alone(pooling):
    pooling = copy.deepcopy(pooling)
    for _ in range(2):
        hide_padding(pooling)
    assert len(pooling._forward_hooks) == 1
    xs = [x.sub(3).requires_grad_() for x in maps()]  # zeros would be the largest
    expected = [pooling(x) for x in xs]
    batch = stack([x.detach() for x in xs]).requires_grad_()
    with padded_images(SIZES, PADDED):
        found = cropped(pooling(batch), expected)
    torch.testing.assert_close(found, expected, **CLOSE)
    grads = torch.autograd.grad(sum(part.square().sum() for part in found), batch)[0]
    wanted = torch.autograd.grad(sum(part.square().sum() for part in expected), xs)
    torch.testing.assert_close(parts(grads, xs), list(wanted), **CLOSE)


@pytest.mark.parametrize('pooling', [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)])
def test_pooling_keeps_the_memory_format(pooling):
    pooling = copy.deepcopy(pooling)
    hide_padding(pooling)
    x = stack(maps(), fill=7.0).contiguous(memory_format=torch.channels_last)
    with padded_images(SIZES, PADDED):
        y = pooling(x)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_max_pooling_writes_zeros_where_there_is_no_image():
    pooling = nn.MaxPool2d(1, 2)
    hide_padding(pooling)
    with padded_images(SIZES, PADDED):
        y = pooling(stack(maps(), fill=7.0))
    parts(y, maps([(-(-h // 2), -(-w // 2)) for h, w in SIZES]))


def test_pooling_that_gives_indices_or_gets_a_named_input_is_left_alone():
    x = stack(maps(), fill=7.0)
    for pooling in (nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2)):
        want = pooling(x)
        hide_padding(pooling)
        with padded_images(SIZES, PADDED):
            found = pooling(input=x) if isinstance(want, torch.Tensor) else pooling(x)
        torch.testing.assert_close(found, want, rtol=0, atol=0)
