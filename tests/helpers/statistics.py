"""Layers with other statistics than BatchNorm's, written from their definitions.

Each takes the batches of all ranks and the state before, and gives the outputs and the
state after, as in ``definition.py``.
"""

import torch
from torch import Tensor

from helpers.definition import (
    Result,
    State,
    elements_of,
    moments,
    move,
    over_maps,
)
from helpers.relatives import channel_affine, normalize


def batch_renorm(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float | None,
    limits: tuple[float, float],
    steps: tuple[int, int, int],
) -> Result:
    """Batch Renormalization.

    Args:
        limits: Of ``r`` and of ``d``, once they are reached.
        steps: Batches before the limits grow, until that of ``r`` and that of ``d`` is
            reached.
    """
    state = dict(state)
    running = state['running_mean'], state['running_var']
    r, d = torch.ones_like(running[0]), torch.zeros_like(running[0])
    mean, var = running
    elements = elements_of(xs)
    n = elements.shape[1]
    if training and n:
        mean, var = moments(elements)
        plain, *full = steps
        seen = int(state['num_batches_tracked'])
        grown = [
            min(max((seen - plain) / (end - plain), 0), 1)
            if end > plain
            else float(seen >= plain)
            for end in full
        ]
        r_max, d_max = 1 + (limits[0] - 1) * grown[0], limits[1] * grown[1]
        sigma = torch.sqrt(running[1] + eps)
        r = torch.clip(torch.sqrt(var + eps) / sigma, 1 / r_max, r_max).detach()
        d = torch.clip((mean - running[0]) / sigma, -d_max, d_max).detach()
        move(state, mean, var * n / (n - 1), momentum)
    ys = []
    for x in xs:
        xhat = normalize(x, mean, var, eps)
        ys.append(channel_affine(over_maps(r) * xhat + over_maps(d), state))
    return ys, state


def mabn(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float | None,
    memory_size: int,
    warmup_steps: int,
    renorm_steps: int,
    r_max: float,
) -> Result:
    """Moving Average BatchNorm; gradients go by its written backward."""
    state = dict(state)
    pivot = state['running_mean']
    xs = [x - over_maps(pivot) for x in xs]
    one = torch.ones_like(pivot)
    elements = elements_of(xs)
    if not training or not elements.numel():
        scale = 1 / torch.sqrt(state['running_var'] + eps)
        return [channel_affine(over_maps(scale) * x, state) for x in xs], state

    step = int(state['batches_memorized'])
    squares = state['square_memory'].clone()
    squares[:, step % memory_size] = (elements**2).mean(1).detach()
    iteration = step + 1
    is_warm = iteration > memory_size and iteration > warmup_steps
    chi = squares.mean(1) if is_warm else squares[:, step % memory_size]
    r = one
    if iteration > renorm_steps:
        r = torch.sqrt(chi + eps) / torch.sqrt(state['running_var'] + eps)
        r = torch.clip(r, 1 / r_max, r_max)
    state['num_batches_tracked'] = state['num_batches_tracked'] + 1
    pace = 1 / int(state['num_batches_tracked']) if momentum is None else momentum
    state |= {
        'square_memory': squares,
        'batches_memorized': state['batches_memorized'] + 1,
        'running_var': (1 - pace) * state['running_var'] + pace * chi,
        'gradient_memory': state['gradient_memory'].clone(),
    }

    def backward(x: Tensor, g: Tensor) -> Tensor:
        z = x / torch.sqrt(chi + eps)[:, None]
        g = r[:, None] * g
        gradients = state['gradient_memory']
        gradients[:, step % memory_size] = (g * z).mean(1)
        psi = gradients.mean(1) if is_warm else gradients[:, step % memory_size]
        return (g - z * psi[:, None]) / torch.sqrt(chi + eps)[:, None]

    xhat = _Written.apply(elements, (r / torch.sqrt(chi + eps))[:, None], backward)
    return [channel_affine(x, state) for x in _maps(xhat, xs)], state


def power_norm(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float,
    warmup_steps: int,
) -> Result:
    """PowerNorm, algorithm 2 of its paper; before, its warm-up, which autograd does."""
    state = dict(state)
    pivot = state['running_mean']
    xs = [x - over_maps(pivot) for x in xs]
    elements = elements_of(xs)
    if not training or not elements.numel():
        scale = 1 / torch.sqrt(state['running_var'] + eps)
        return [channel_affine(over_maps(scale) * x, state) for x in xs], state

    is_warm = int(state['batches_averaged']) >= warmup_steps
    square = (elements**2).mean(1)
    used = state['running_var'] if is_warm else square
    psi, nu = torch.sqrt(used + eps), state['running_gradient']
    state |= {
        'num_batches_tracked': state['num_batches_tracked'] + 1,
        'batches_averaged': state['batches_averaged'] + 1,
        'running_var': state['running_var']
        + momentum * (square.detach() - state['running_var']),
    }

    def backward(x: Tensor, g: Tensor) -> Tensor:
        xhat = x / psi.detach()[:, None]
        power, correlation = (xhat * xhat).mean(1), (g * xhat).mean(1)
        state['running_gradient'] = nu * (1 - momentum * power) + momentum * correlation
        # In the warm-up the derivative itself: nu is the batch's own.
        here = nu if is_warm else correlation
        return (g - here[:, None] * xhat) / psi.detach()[:, None]

    xhat = _Written.apply(elements, 1 / psi.detach()[:, None], backward)
    return [channel_affine(x, state) for x in _maps(xhat, xs)], state


class _Written(torch.autograd.Function):
    """``scale * x``, with a gradient that is written down."""

    @staticmethod
    def forward(ctx, x, scale, backward):
        ctx.save_for_backward(x)
        ctx.written = backward
        return scale * x

    @staticmethod
    def backward(ctx, grad):
        [x] = ctx.saved_tensors
        return ctx.written(x, grad), None, None


def _maps(elements: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The reverse of :func:`elements_of`."""
    parts = elements.split([x[:, :1].numel() for x in like], dim=1)
    return [
        part.view(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)
        for part, x in zip(parts, like, strict=True)
    ]


def mbn(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float | None,
    memory_size: int,
    decay: float,
) -> Result:
    """Memorized BatchNorm: of the last batches' elements, as of one batch."""
    state = dict(state)
    elements = elements_of(xs)
    n = elements.shape[1]
    mean, var = state['running_mean'], state['running_var']
    if training and n:
        mean, var = moments(elements)
        now = int(state['batches_memorized'])
        memories = [('mean_memory', mean), ('var_memory', var)]
        for name, value in memories:
            state[name] = state[name].clone()
            state[name][:, now % memory_size] = value.detach()
        batches = [(1.0, mean, var)] + [
            (
                decay ** (now - t),
                *(state[name][:, t % memory_size] for name, _ in memories),
            )
            for t in range(max(now - memory_size + 1, 0), now)
        ]
        total = sum(weight for weight, _, _ in batches)
        move(state, mean, var * n / (n - 1), momentum)
        mean = sum(w * m for w, m, _ in batches) / total
        var = sum(w * (v + (m - mean) ** 2) for w, m, v in batches) / total
        state['batches_memorized'] = state['batches_memorized'] + 1
        if momentum is not None:
            state |= {'running_mean': mean.detach(), 'running_var': var.detach()}
    ys = [normalize(x, mean, var, eps) for x in xs]
    return [channel_affine(y, state) for y in ys], state
