"""Layers, inputs and comparisons that the tests of several subjects share."""

import torch
from torch import Tensor, nn

from helpers import definitions
from helpers.definition import Define, State
from ubn_mmdet import UBN

OFF = {
    'centering': False,
    'scaling': None,
    'kernel_size': 1,
    'condensation_threshold': None,
}
STAGES = {
    'all': {},
    'k=1': {'kernel_size': 1},
    'k=5': {'kernel_size': 5},
    'no gate': {'condensation_threshold': None},
    'no centering': {'centering': False},
    'no scaling': {'scaling': None},
    'centering alone': OFF | {'centering': True},
    'scaling alone': OFF | {'scaling': 'normalized'},
    'kernel alone': OFF | {'kernel_size': 3},
    'no affine': {'affine': False},
    'no affine, all off': OFF | {'affine': False},
    'all off': OFF,
}


def trained(channels: int = 3, **settings) -> UBN:
    """A float64 UBN with all parameters and statistics away from their start."""
    return shake(UBN(channels, dtype=torch.float64, **settings))


def shake(layer: nn.Module) -> nn.Module:
    """Move a float64 layer's parameters and statistics away from their start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
            parameter.add_(0.5 * noise)
        if getattr(layer, 'spatial_weight', None) is not None:
            k = layer.spatial_weight.shape[-1]
            layer.spatial_weight[:, k // 2, k // 2] = 0  # where it always is
        if layer.running_mean is not None:
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return layer


def images(*shape: int, alike: bool = True, seed: int = 0) -> Tensor:
    """Random maps; ``alike`` gives samples of high mutual cosine, else about zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return 2 * x + 3 if alike else x


def state_of(layer: nn.Module) -> State:
    """A copy of the state whose parameters collect gradients of their own."""
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    for name, _ in layer.named_parameters():
        state[name].requires_grad_()
    return state


def compare(
    layer: nn.Module,
    x: Tensor,
    steps: int = 1,
    define: Define = definitions.define,
    **tolerance: float,
) -> None:
    """Run layer and definition side by side and compare everything."""
    tolerance = tolerance or {'rtol': 1e-10, 'atol': 1e-12}
    state = state_of(layer)
    for step in range(steps):
        # The layer gets x as it lies in memory.
        ours, theirs = x.detach().requires_grad_(), x.clone().requires_grad_()
        y = layer(ours)
        [expected], state = define(layer, [theirs], state)
        torch.testing.assert_close(y, expected, **tolerance)
        gradient = images(*x.shape, seed=100 + step).to(x)
        layer.zero_grad()
        y.backward(gradient)
        parameters = [state[name] for name, _ in layer.named_parameters()]
        grad_x, *of_parameters = torch.autograd.grad(
            expected, [theirs, *parameters], gradient
        )
        torch.testing.assert_close(ours.grad, grad_x, **tolerance)
        for parameter, want in zip(layer.parameters(), of_parameters, strict=True):
            torch.testing.assert_close(parameter.grad, want, **tolerance)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffer, state[name], **tolerance)
