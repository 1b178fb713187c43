"""What ``closed_form.py`` does between the passes, in PyTorch's operations.

``triton_algebra.py`` has the same two functions. The formulas are in ``coefficients.py``;
here they meet the collectives.
"""

from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from . import algebra
from .coefficients import (
    Coefficients,
    Form,
    Learnt,
    backward_to_maps,
    backward_to_statistics,
    coefficients,
)
from .normalizer import Normalizer, OfBatch


class Sums(NamedTuple):
    """What the backward's reduction leaves.

    Attributes:
        handed: For the last pass: all that is needed of ``dy``.
        weight: ``sum u * (x - pivot) / sqrt(var + eps)``, ``(N, C)`` or ``(C,)``.
        bias: ``sum u``, likewise.
        kernel: The gradient of the kernel, ``(C, k, k)``; None without one.
        behind: ``sum dy``, ``(N, C)``; None without a kernel.
        spare: Like ``x``, and nobody's: the last pass may write to it.
    """

    handed: Tensor
    weight: Tensor
    bias: Tensor
    kernel: Tensor | None = None
    behind: Tensor | None = None
    spare: Tensor | None = None


class Forward(NamedTuple):
    """What the apply and the backward need.

    Attributes:
        mean: ``K``, ``(N, C)``; None where all samples share the coefficients.
        normalizer: What to normalise with.
        coefficients: Of the apply.
    """

    mean: Tensor | None
    normalizer: Normalizer
    coefficients: Coefficients


class Saved(NamedTuple):
    """What the backward needs of the forward, beside what is learnt.

    Attributes:
        mean: ``K``, ``(N, C)``; None where all samples share the coefficients.
        var: What was normalised with, ``(C,)``.
        is_open: Whether that was the batch's, ``()`` bool; None for certain.
        pivot: The apply's, ``(N, C)`` or ``(C,)``, as are the next two.
        weight: None for 1.
        sigmoid: Of the scaling gate; None without one.
        count: Elements of a channel on all ranks; None for constant statistics.
        group: The ranks that were merged; None for this one alone.
        positions: Elements of a map.
    """

    mean: Tensor | None
    var: Tensor
    is_open: Tensor | None
    pivot: Tensor
    weight: Tensor | None
    sigmoid: Tensor | None
    count: int | Tensor | None  # type: ignore[assignment]
    group: dist.ProcessGroup | None
    positions: int


class Backward(NamedTuple):
    """The gradients of what is learnt, and ``dx = scale*u + slope*(x - pivot) + offset``.

    The coefficients are ``(N, C)`` or ``(C,)``; None for 0, and all of them where nobody
    wants the gradient of ``x``.
    """

    learnt: Learnt
    scale: Tensor | None = None
    pivot: Tensor | None = None
    slope: Tensor | None = None
    offset: Tensor | None = None


def forward(
    mean: Tensor | None,
    var: Tensor | None,
    gram: Tensor | None,
    normalizer: Normalizer | OfBatch,
    learnt: Learnt,
    form: Form,
) -> Forward:
    """From the moments to the coefficients.

    Args:
        mean: ``K``, ``(N, C)``; None where nobody needs it.
        var: ``V``, ``(N, C)``, of a batch whose statistics are yet to come; else None.
        gram: The products of all pairs of samples, ``(N, N)``, if they are known.
        normalizer: What to normalise with.
        learnt: Parameters, in the dtype of the statistics.
        form: Settings.
    """
    centred = None
    if mean is not None:
        centred = algebra.center(mean, learnt.centering_weight)
    if isinstance(normalizer, OfBatch):
        assert mean is not None and var is not None and centred is not None
        normalizer = normalizer.normalizer(mean, var, centred, gram)
    if not learnt.differs_by_sample:
        mean = centred = None
    given = coefficients(mean, centred, *normalizer[:2], learnt, form)
    return Forward(mean, normalizer, given)


def backward(
    sums: Sums, saved: Saved, learnt: Learnt, form: Form, to_maps: bool
) -> Backward:
    """From the sums to the gradients.

    Args:
        sums: Of this rank.
        saved: By the forward.
        learnt: Parameters, in the dtype of the statistics.
        form: Settings.
        to_maps: Whether the gradient of ``x`` is wanted, or ``centering_weight``'s, which
            come at the price of a collective.
    """
    mean, var, is_open, pivot, weight, sigmoid, count, group, positions = saved
    back = backward_to_statistics(
        *sums[1:3], sums.behind, mean, var, pivot, sigmoid, is_open, learnt,
        form, of_batch=count is not None and to_maps,
    )  # fmt: skip
    gradients = back.learnt
    if sums.kernel is not None:
        centre = sums.kernel.shape[-1] // 2
        gradients = gradients._replace(
            spatial_weight=sums.kernel,
            weight=sums.kernel[:, centre, centre].contiguous(),
        )
    if not to_maps:
        return Backward(gradients)
    if group is not None:
        assert back.statistics is not None and isinstance(count, Tensor)
        dist.all_reduce(back.statistics, group=group)
        count = count.clamp(min=1)
    of_maps = backward_to_maps(
        back, back.statistics, mean, pivot, learnt, positions, count
    )
    scale = back.inv_std if weight is None else weight * back.inv_std
    gradients = gradients._replace(centering_weight=of_maps.centering_weight)
    return Backward(gradients, scale, *of_maps[:3])
