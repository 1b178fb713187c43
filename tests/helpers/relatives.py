"""UBN's relatives written from their definitions, as UBN is in ``definition.py``.

Each takes the batches of all ranks and the state before, and gives the outputs and the
state after. An affine stage whose keys are absent from ``state`` is off.
"""

import torch
from torch import Tensor

from helpers.definition import (
    Result,
    State,
    batchnorm_statistics,
    depthwise,
    elements_of,
    gap,
    moments,
    move,
    over_maps,
)


def rbn(
    xs: list[Tensor], state: State, *, training: bool, eps: float, momentum: float
) -> Result:
    """Representative BatchNorm."""
    state = dict(state)
    centred = [x + over_maps(state['centering_weight']) * gap(x) for x in xs]
    mean, var = batchnorm_statistics(
        centred, state, training=training, momentum=momentum
    )
    ys = []
    for x in centred:
        xhat = normalize(x, mean, var, eps)
        gate = relative_gate(gap(xhat), state, start=1.0)
        ys.append(channel_affine(gate * xhat, state))
    return ys, state


def iebn(
    xs: list[Tensor], state: State, *, training: bool, eps: float, momentum: float
) -> Result:
    """Instance Enhancement BatchNorm."""
    state = dict(state)
    mean, var = batchnorm_statistics(xs, state, training=training, momentum=momentum)
    ys = []
    for x in xs:
        gate = relative_gate(gap(x), state, start=-1.0)
        ys.append(channel_affine(gate * normalize(x, mean, var, eps), state))
    return ys, state


def bnet(
    xs: list[Tensor], state: State, *, training: bool, eps: float, momentum: float
) -> Result:
    """BatchNorm with a depthwise affine; ``weight`` is the centre tap."""
    state = dict(state)
    mean, var = batchnorm_statistics(xs, state, training=training, momentum=momentum)
    xhats = [normalize(x, mean, var, eps) for x in xs]
    if 'weight' not in state:
        return xhats, state
    kernel = state['spatial_weight'].clone()
    centre = kernel.shape[-1] // 2
    kernel[:, centre, centre] = state['weight']
    return [
        depthwise(xhat, kernel) + over_maps(state['bias']) if xhat.numel() else xhat
        for xhat in xhats
    ], state


def bgn(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float,
    num_groups: int,
) -> Result:
    """Batch Group Normalization: ``(N, C, H, W)`` is ``(N, G, D/G)``."""
    state = dict(state)
    rows = [
        x.reshape(len(x), num_groups, x[:1].numel() // num_groups)
        if x.numel()
        else x.new_zeros(0, num_groups, 1)
        for x in xs
    ]
    mean, var = batchnorm_statistics(rows, state, training=training, momentum=momentum)
    ys = []
    for x, row in zip(xs, rows, strict=True):
        xhat = (row - mean[None, :, None]) / torch.sqrt(var[None, :, None] + eps)
        ys.append(channel_affine(xhat.reshape(x.shape) if x.numel() else x, state))
    return ys, state


def batchnorm(
    xs: list[Tensor], state: State, *, training: bool, eps: float, momentum: float
) -> Result:
    """BatchNorm."""
    state = dict(state)
    mean, var = batchnorm_statistics(xs, state, training=training, momentum=momentum)
    return [channel_affine(normalize(x, mean, var, eps), state) for x in xs], state


def normalize(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)``, by channel."""
    return (x - over_maps(mean)) / torch.sqrt(over_maps(var) + eps)


def relative_gate(mean: Tensor, state: State, start: float) -> Tensor:
    """``sigmoid(w_v * mean + w_b)``, over its value at the start."""
    weight, bias = over_maps(state['scaling_weight']), over_maps(state['scaling_bias'])
    at_start = torch.sigmoid(torch.tensor(start, dtype=torch.float64))
    return torch.sigmoid(weight * mean + bias) / at_start


def channel_affine(x: Tensor, state: State) -> Tensor:
    """BatchNorm's weight and bias, if there are any."""
    if 'weight' not in state:
        return x
    return over_maps(state['weight']) * x + over_maps(state['bias'])


def js_norm(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float | None,
) -> Result:
    """BatchNorm with James-Stein estimates."""
    state = dict(state)
    elements = elements_of(xs)
    n = elements.shape[1]
    tracks = 'running_mean' in state
    if n == 0 or (tracks and not training):
        mean, var = state['running_mean'], state['running_var']
    else:
        mean, var = (james_stein(values) for values in moments(elements))
        if tracks:
            move(state, mean, var * n / (n - 1), momentum)
    return [channel_affine(normalize(x, mean, var, eps), state) for x in xs], state


def james_stein(vector: Tensor) -> Tensor:
    """A vector, shrunk towards zero by how its entries differ."""
    c = len(vector)
    if c < 3:
        return vector
    mean = vector.sum() / c
    var = ((vector - mean) ** 2).sum() / c
    return (1 - (c - 2) * var / (vector**2).sum()) * vector


def l2bn(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float,
    momentum: float | None,
) -> Result:
    """BatchNorm of samples of one L2 norm."""
    scaled = [
        torch.stack([(one.numel() / (one**2).sum()).sqrt() * one for one in x])
        if x.numel()
        else x
        for x in xs
    ]
    return batchnorm(scaled, state, training=training, eps=eps, momentum=momentum)
