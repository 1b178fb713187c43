"""The reference of the passes over ``x``, in float64, with its gradients by autograd."""

import torch
from torch import Tensor, nn

from ubn_mmdet.ops.passes import Coefficients, ReferencePasses


def coefficients(x: Tensor, kernel_size: int = 1, seed: int = 2) -> dict[str, Tensor]:
    """What an apply takes beside ``x``, float32 and random."""
    n, c = x.shape[:2]
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(x.device)

    names = ['pivot', 'scale', 'shift']
    result = {name: random(n, c) for name in names}
    if kernel_size > 1:
        result['kernel'] = random(c, kernel_size, kernel_size)
        result['bias'] = random(n, c)
    return result


def applied(
    x: Tensor, dy: Tensor, given: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The apply's result, and the gradients of ``x`` and of what is ``given``."""
    inputs = {'x': x, **given}
    inputs = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    x, *rest = inputs.values()
    passes = ReferencePasses(x)
    y = passes.apply(Coefficients(*rest))
    gradients = torch.autograd.grad(y, inputs.values(), dy.double())
    return y.detach(), dict(zip(inputs, gradients, strict=True))


def gradients(layer: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    """The layer's result, and the gradients of ``x`` and of the parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    return [y, x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]
