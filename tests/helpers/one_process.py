"""Compares a layer on several ranks with its definition on the batches of all."""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers import definitions
from helpers.definition import Define
from helpers.layers import images, state_of
from helpers.ranks import Ranks

FLOAT64 = {'rtol': 1e-9, 'atol': 1e-9}


class CountedCollectives:
    """Notes every collective operation of torch.distributed that is called.

    Of each all-reduce also how many numbers this rank sends.
    """

    NAMES = (
        'all_reduce',
        'all_gather',
        'all_gather_into_tensor',
        'all_gather_object',
        'reduce_scatter_tensor',
        'broadcast',
        'barrier',
        'send',
        'recv',
    )

    def __enter__(self):
        self.names, self.sent, self._originals = [], [], {}
        for name in self.NAMES:
            original = self._originals[name] = getattr(dist, name)

            def counted(*args, _name=name, _original=original, **kwargs):
                self.names.append(_name)
                if _name == 'all_reduce':
                    self.sent.append(args[0].numel())
                return _original(*args, **kwargs)

            setattr(dist, name, counted)
        return self

    def __exit__(self, *_):
        for name, original in self._originals.items():
            setattr(dist, name, original)


def step(task: tuple) -> dict:
    """One rank's part: output, gradients, buffers and collectives of some steps."""
    layer, x, gradient, steps = task
    layer.zero_grad()
    with CountedCollectives() as counted:
        for _ in range(steps):
            x = x.detach().clone().requires_grad_()
            y = layer(x)
            y.backward(gradient)
    return {
        'y': y.detach(),
        'x': x.grad,
        'parameters': [parameter.grad for parameter in layer.parameters()],
        'buffers': dict(layer.named_buffers()),
        'collectives': counted.names,
        'sent': counted.sent,
    }


def assert_equals_one_process(
    ranks: Ranks,
    layer: nn.Module,
    xs: list[Tensor],
    steps: int = 1,
    define: Define = definitions.define,
    **tolerance: float,
) -> list[dict]:
    """Every rank's result equals the definition on the batches of all ranks."""
    tolerance = tolerance or FLOAT64
    xs = xs[: ranks.size]
    upstream = [images(*x.shape, seed=50 + i).to(x.dtype) for i, x in enumerate(xs)]
    results = ranks.run(
        step, [(layer, x, g, steps) for x, g in zip(xs, upstream, strict=True)]
    )

    state = state_of(copy.deepcopy(layer).double())
    leaves = [x.double().requires_grad_() for x in xs]
    names = [name for name, _ in layer.named_parameters()]
    sums = [torch.zeros_like(state[name]) for name in names]
    for _ in range(steps):
        ys, state = define(layer, leaves, state)
        loss = sum((y * g).sum() for y, g in zip(ys, upstream, strict=True))
        inputs = [*leaves, *(state[name] for name in names)]
        gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
        grad_xs, of_parameters = gradients[: len(xs)], gradients[len(xs) :]
        sums = [a + b for a, b in zip(sums, of_parameters, strict=True)]

    for result, y, grad_x in zip(results, ys, grad_xs, strict=True):
        torch.testing.assert_close(result['y'].double(), y, **tolerance)
        torch.testing.assert_close(result['x'].double(), grad_x, **tolerance)
        for name, buffer in result['buffers'].items():
            want = state[name].to(buffer.dtype)
            torch.testing.assert_close(buffer, want, **tolerance)
    for i, name in enumerate(names):
        total = sum(result['parameters'][i].double() for result in results)
        torch.testing.assert_close(
            total, sums[i], msg=lambda m, name=name: f'{name}: {m}', **tolerance
        )
    return results
