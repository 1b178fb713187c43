"""UBN written plainly from its definition, in the order of its stages.

The reference of every test of numbers. It takes as many passes, pairs and loops as the
definition's sentences have, and shares no code with the package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def ubn(
    x: Tensor,
    state: State,
    *,
    training: bool,
    eps: float = 1e-5,
    momentum: float = 0.1,
    threshold: float | None = 0.15,
    feature: str = 'flat',
) -> tuple[Tensor, State]:
    """The output, and the state after it; a stage whose keys are absent is off."""
    state = dict(state)
    if 'centering_weight' in state:
        x_centred = x + over_maps(state['centering_weight']) * gap(x)
    else:
        x_centred = x

    gate_is_open = True
    if training and threshold is not None:
        c = condensation(gap(x) if feature == 'pooled' else x)
        state['condensation'] = 0.9 * state['condensation'] + 0.1 * c
        gate_is_open = bool(state['condensation'] > threshold)

    if training and gate_is_open:
        mean = x_centred.mean((0, 2, 3))
        var = ((x_centred - over_maps(mean)) ** 2).mean((0, 2, 3))
        n = x.numel() // x.shape[1]
        for name, value in {'mean': mean, 'var': var * n / (n - 1)}.items():
            old = state[f'running_{name}']
            state[f'running_{name}'] = (1 - momentum) * old + momentum * value.detach()
        state['num_batches_tracked'] = state['num_batches_tracked'] + 1
    else:
        mean, var = state['running_mean'], state['running_var']
    xhat = (x_centred - over_maps(mean)) / torch.sqrt(over_maps(var) + eps)

    s = 1.0
    if 'scaling_weight' in state:
        w, b = over_maps(state['scaling_weight']), over_maps(state['scaling_bias'])
        s = torch.sigmoid(w * gap(xhat) + b) / torch.sigmoid(torch.tensor(1.0).double())

    if 'weight' not in state:
        return s * xhat, state
    affine = over_maps(state['weight']) * xhat
    if 'spatial_weight' in state:
        affine = affine + depthwise(xhat, state['spatial_weight'])
    return s * (affine + over_maps(state['bias'])), state


def condensation(x: Tensor) -> Tensor:
    """The mean cosine of all pairs of different samples among the first sixteen."""
    flat = [sample.flatten() for sample in x.detach()[:16]]
    cosines = [
        a @ b / (a.norm() * b.norm())
        for i, a in enumerate(flat)
        for j, b in enumerate(flat)
        if i != j
    ]
    return torch.stack(cosines).mean() if cosines else torch.ones(()).to(x)


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel correlated with its own kernel, zeros beyond the border."""
    k = kernel.shape[-1]
    height, width = x.shape[2:]
    padded = F.pad(x, [k // 2] * 4)
    return sum(
        over_maps(kernel[:, i, j]) * padded[:, :, i : i + height, j : j + width]
        for i in range(k)
        for j in range(k)
    )


def gap(x: Tensor) -> Tensor:
    """The mean over positions, kept as a 1 x 1 map."""
    return x.mean((2, 3), keepdim=True)


def over_maps(per_channel: Tensor) -> Tensor:
    """(C,) to (1, C, 1, 1)."""
    return per_channel[None, :, None, None]
