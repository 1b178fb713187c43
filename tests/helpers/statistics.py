"""Layers with other statistics than BatchNorm's, written from their definitions.

Each takes the batches of all ranks and the state before, and gives the outputs and the
state after, as in ``definition.py``.
"""

import torch
from torch import Tensor

from helpers.definition import State, over_maps

Result = tuple[list[Tensor], State]


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
    n = sum(x[:, 0].numel() for x in xs)
    if training and n:
        mean, var, n = moments(xs)
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
        state['num_batches_tracked'] = state['num_batches_tracked'] + 1
        step = 1 / int(state['num_batches_tracked']) if momentum is None else momentum
        new = {'running_mean': mean, 'running_var': var * n / (n - 1)}
        for name, value in new.items():
            state[name] = (1 - step) * state[name] + step * value.detach()
        state |= {'renorm_scale': r, 'renorm_shift': d}
    else:
        state.setdefault('renorm_scale', r)
        state.setdefault('renorm_shift', d)
    ys = []
    for x in xs:
        xhat = (x - over_maps(mean)) / torch.sqrt(over_maps(var) + eps)
        ys.append(affine(over_maps(r) * xhat + over_maps(d), state))
    return ys, state


def moments(xs: list[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and number of all elements of a channel."""
    elements = torch.cat([x.transpose(0, 1).flatten(1) for x in xs], dim=1)
    mean = elements.mean(1)
    return mean, ((elements - mean[:, None]) ** 2).mean(1), elements.shape[1]


def affine(x: Tensor, state: State) -> Tensor:
    """BatchNorm's weight and bias, if there are any."""
    if 'weight' not in state:
        return x
    return over_maps(state['weight']) * x + over_maps(state['bias'])


def _elements(xs: list[Tensor]) -> Tensor:
    """The elements of each channel, of all batches, ``(C, n)``."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in xs], dim=1)

