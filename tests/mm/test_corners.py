"""UBN where the toolbox treats norm layers specially: freezing, AMP, checkpointing."""

import copy

import pytest
import torch
import torch.utils.checkpoint as cp
from helpers.layers import OFF, images, trained
from mmdet.models import ResNet
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from ubn_mmdet import UBN


def resnet(**settings):
    torch.manual_seed(0)
    norm_cfg = settings.pop('norm_cfg', {'type': 'UBN', 'requires_grad': True})
    model = ResNet(18, norm_cfg=norm_cfg, **settings)
    model.init_weights()
    return model


class TestFreezing:
    """``requires_grad``, train and eval by layer."""

    def test_a_fully_frozen_layer_still_passes_gradients(self):
        layer = trained().eval().requires_grad_(False)
        x = images(2, 3, 5, 5).requires_grad_()
        layer(x).sum().backward()
        assert x.grad.any() and all(p.grad is None for p in layer.parameters())

    def test_layers_go_their_own_ways(self):
        layers = nn.Sequential(trained(), trained())
        layers[0].eval()
        before = [layer.running_mean.clone() for layer in layers]
        layers(images(2, 3, 5, 5))
        moved = [
            not torch.equal(layer.running_mean, mean)
            for layer, mean in zip(layers, before, strict=True)
        ]
        assert moved == [False, True]


def test_gradient_accumulation_adds_up_and_moves_statistics_each_time():
    layer, wrapper_input = trained(), images(4, 3, 5, 5)
    layer.condensation_threshold = 0.0
    reference = copy.deepcopy(layer)
    wrapper = OptimWrapper(
        torch.optim.SGD(layer.parameters(), lr=0.1), accumulative_counts=2
    )
    wrapper.initialize_count_status(layer, 0, 2)
    for half in (wrapper_input[:2], wrapper_input[2:]):
        wrapper.update_params(layer(half).square().mean())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for half in (wrapper_input[:2], wrapper_input[2:]):
        (reference(half).square().mean() / 2).backward()
    optimizer.step()
    assert layer.num_batches_tracked == 2
    torch.testing.assert_close(layer.state_dict(), reference.state_dict())


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_amp_in_bfloat16_on_cpu(kernel_size):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), UBN(4, kernel_size=kernel_size), nn.ReLU()
    )
    exact = copy.deepcopy(net)
    seen = []
    net[1].register_forward_hook(lambda _, x, y: seen.append((x[0].dtype, y.dtype)))
    x = 1000 + images(2, 3, 8, 8).float()
    # MMEngine's AmpOptimWrapper refuses to be built on CPU; this is its context.
    with autocast(device_type='cpu', dtype=torch.bfloat16):
        loss = net(x).float().square().mean()
    loss.backward()
    assert seen == [(torch.bfloat16, torch.bfloat16)]
    exact(x).square().mean().backward()
    for buffer in net[1].buffers():
        assert buffer.dtype in (torch.float32, torch.int64)
    torch.testing.assert_close(
        net[1].running_mean, exact[1].running_mean, rtol=0.01, atol=0.1
    )


def test_half_precision_sums_do_not_overflow():
    x = (300 + images(2, 3, 32, 32)).half()  # the sum of squares is beyond float16
    layer = UBN(3, momentum=1.0)
    layer(x)
    want = x.double().var((0, 2, 3))
    torch.testing.assert_close(layer.running_var.double(), want, rtol=1e-4, atol=0)


REENTRANT = pytest.mark.parametrize('reentrant', [True, False])


@REENTRANT
@pytest.mark.parametrize('alike', [True, False], ids=['open', 'closed'])
def test_activation_checkpointing_moves_the_state_once(reentrant, alike):
    plain, saving = trained(), trained()
    for layer in (plain, saving):
        if not alike:
            layer.condensation.fill_(0.1)
    x = images(3, 3, 5, 5, alike=alike)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):
        plain(theirs).square().sum().backward()
        y = cp.checkpoint(saving, ours, use_reentrant=reentrant)
        y.square().sum().backward()
    assert (plain.num_batches_tracked > 0) == alike
    torch.testing.assert_close(saving.state_dict(), plain.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for a, b in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@REENTRANT
@pytest.mark.parametrize('feature', ['flat', 'pooled'])
def test_checkpointed_calls_keep_the_gate_they_had(feature, reentrant):
    xs = images(4, 3, 5, 5), images(4, 3, 5, 5, alike=False, seed=1)
    probe = trained(condensation_feature=feature)
    gates = [(probe(x), probe.condensation.item())[1] for x in xs]
    gradients = []
    for call in (
        lambda layer, x: layer(x),
        lambda layer, x: cp.checkpoint(layer, x, use_reentrant=reentrant),
    ):
        layer = trained(condensation_feature=feature)
        layer.condensation_threshold = sum(gates) / 2  # closes at the second call
        leaves = [x.clone().requires_grad_() for x in xs]
        sum(call(layer, x).square().sum() for x in leaves).backward()
        gradients.append([x.grad for x in leaves])
    torch.testing.assert_close(*gradients)


def test_checkpointing_a_compiled_layer_moves_the_state_as_batchnorms():
    moved = []
    for layer in (UBN(3), nn.BatchNorm2d(3)):
        compiled = torch.compile(layer, backend='eager')
        x = torch.randn(2, 3, 5, 5, requires_grad=True)
        cp.checkpoint(compiled, x, use_reentrant=False).sum().backward()
        moved.append(layer.num_batches_tracked.item())
    assert moved == [2, 2]


def test_with_cp_of_a_resnet_equals_without():
    settings = {'norm_eval': False, 'frozen_stages': -1}
    plain, saving = resnet(**settings), resnet(with_cp=True, **settings)
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        model.train()
        model(x.clone().requires_grad_())[-1].square().sum().backward()
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())
    for a, b in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_norm_of_all_stages_off_is_frozen_batchnorm_in_evaluation():
    layer = trained(**OFF).eval().requires_grad_(False)
    x = images(2, 3, 5, 5)
    shape = 1, 3, 1, 1
    xhat = (x - layer.running_mean.view(shape)) / torch.sqrt(
        layer.running_var.view(shape) + layer.eps
    )
    want = xhat * layer.weight.view(shape) + layer.bias.view(shape)
    torch.testing.assert_close(layer(x), want)
