"""UBN written from its definition, in the order of its stages.

The reference of every test of numbers. It takes as many passes, pairs and loops as the
definition's sentences have, and shares no code with the package.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
Result = tuple[list[Tensor], State]
# What a layer's definition makes of the batches of all ranks and of its state.
Define = Callable[[nn.Module, list[Tensor], State], Result]


def ubn(x: Tensor, state: State, **settings) -> tuple[Tensor, State]:
    """The output, and the state after it; see :func:`ubn_of_ranks`."""
    [y], state = ubn_of_ranks([x], state, **settings)
    return y, state


def ubn_of_ranks(
    xs: list[Tensor],
    state: State,
    *,
    training: bool,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    threshold: float | None = 0.15,
    feature: str = 'flat',
    opens: str = 'similar',
) -> Result:
    """The outputs for the batches of all ranks, and the state after them.

    A stage whose keys are absent from ``state`` is off.
    """
    state = dict(state)
    centred = xs
    if 'centering_weight' in state:
        centred = [x + over_maps(state['centering_weight']) * gap(x) for x in xs]

    gate_is_open = True
    if training and threshold is not None and any(x.numel() for x in xs):
        if 'condensation' in state:
            c = condensation(xs, feature)
            state['condensation'] = 0.9 * state['condensation'] + 0.1 * c
            is_similar = bool(state['condensation'] > threshold)
            gate_is_open = is_similar == (opens == 'similar')
    mean, var = batchnorm_statistics(
        centred, state, training=training and gate_is_open, momentum=momentum
    )

    def normalize(x: Tensor) -> Tensor:
        if not x.numel():
            return x
        xhat = (x - over_maps(mean)) / torch.sqrt(over_maps(var) + eps)
        s = 1.0
        if 'scaling_weight' in state:
            w, b = over_maps(state['scaling_weight']), over_maps(state['scaling_bias'])
            one = torch.tensor(1.0).double()
            s = torch.sigmoid(w * gap(xhat) + b) / torch.sigmoid(one)
        if 'weight' not in state:
            return s * xhat
        affine = over_maps(state['weight']) * xhat
        if 'spatial_weight' in state:
            affine = affine + depthwise(xhat, off_centre(state['spatial_weight']))
        return s * (affine + over_maps(state['bias']))

    return [normalize(x) for x in centred], state


def batchnorm_statistics(
    xs: list[Tensor], state: State, *, training: bool, momentum: float | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance that BatchNorm uses, ``(C,)`` each; moves ``state``.

    Without running statistics in ``state``, those of the batch in evaluation, too.
    """
    elements = elements_of(xs)
    n = elements.shape[1]
    tracks = 'running_mean' in state
    if n == 0 or (tracks and not training):
        return state['running_mean'], state['running_var']
    mean, var = moments(elements)
    if tracks:
        move(state, mean, var * n / (n - 1), momentum)
    return mean, var


def elements_of(xs: list[Tensor]) -> Tensor:
    """The elements of each channel, of all batches, ``(C, n)``."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in xs], dim=1)


def moments(elements: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, of ``(C, n)``."""
    mean = elements.mean(1)
    return mean, ((elements - mean[:, None]) ** 2).mean(1)


def move(state: State, mean: Tensor, var: Tensor, momentum: float | None) -> None:
    """Move the running statistics; ``momentum=None`` averages over all batches."""
    state['num_batches_tracked'] = state['num_batches_tracked'] + 1
    step = momentum
    if step is None:
        step = 1 / state['num_batches_tracked'].double()
    for name, value in {'running_mean': mean, 'running_var': var}.items():
        state[name] = (1 - step) * state[name] + step * value.detach()


def condensation(xs: list[Tensor], feature: str) -> Tensor:
    """The mean cosine of all pairs of different samples, the first sixteen a rank.

    Whole maps are compared within a rank alone, mean vectors across ranks as well.
    """
    samples = [list(x.detach()[:16]) for x in xs if x.numel()]
    if feature == 'pooled':
        samples = [[sample.mean((1, 2)) for rank in samples for sample in rank]]
    cosines = [
        (a * b).sum() / (a.norm() * b.norm())
        for rank in samples
        for i, a in enumerate(rank)
        for j, b in enumerate(rank)
        if i != j
    ]
    return torch.stack(cosines).mean() if cosines else torch.ones((), dtype=xs[0].dtype)


def off_centre(kernel: Tensor) -> Tensor:
    """The kernel without its centre tap, which is ``weight``."""
    mask = torch.ones_like(kernel)
    mask[:, kernel.shape[1] // 2, kernel.shape[2] // 2] = 0
    return mask * kernel


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
    return x.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3], 1)


def over_maps(per_channel: Tensor) -> Tensor:
    """(C,) to (1, C, 1, 1)."""
    return per_channel[None, :, None, None]
