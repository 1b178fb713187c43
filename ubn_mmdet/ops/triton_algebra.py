"""What ``closed_form.py`` does between the passes, in one launch each way.

Two where ranks merge, with the collective between them. What the kernels do not know,
``eager_algebra.py`` does, which has the same two functions.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from . import eager_algebra, triton_kernels
from .coefficients import Coefficients, Form, Learnt
from .eager_algebra import Backward, Forward, Saved, Sums
from .normalizer import Averages, Normalizer, OfBatch


def forward(
    mean: Tensor | None,
    var: Tensor | None,
    gram: Tensor | None,
    normalizer: Normalizer | OfBatch,
    learnt: Learnt,
    form: Form,
) -> Forward:
    """From the moments to the coefficients; arguments as in ``eager_algebra.forward``."""
    if (
        not isinstance(normalizer, OfBatch)
        or (averages := normalizer.averages) is None
        or mean is None
        or var is None
        or not _has_kernel(mean, gram, averages)
    ):
        return eager_algebra.forward(mean, var, gram, normalizer, learnt, form)
    learnt, group, merged = _dense(learnt), normalizer.group, None
    count: int | Tensor = normalizer.count
    if group is not None:
        merged = triton_kernels.pack(
            mean, var, gram, learnt.centering_weight, normalizer.count
        )
        dist.all_reduce(merged, group=group)
        count = merged[-1]
    c = triton_kernels.coefficients(
        mean, var, gram, learnt, form, averages, normalizer.count, merged
    )
    if averages.moves:
        _note_change(averages)
    has_kernel = c.kernel is not None  # which the weight is in, and the bias behind
    weight = learnt.weight if c.weight is None and not has_kernel else c.weight
    bias = learnt.bias if c.bias is None else c.bias
    given = Coefficients(
        pivot=c.mean if c.pivot is None else c.pivot,
        weight=weight,
        bias=None if has_kernel else bias,
        kernel=c.kernel,
        behind=bias if has_kernel else None,
        sigmoid=c.sigmoid,
    )
    normalized = Normalizer(c.mean, c.var, c.is_open, count, group)
    return Forward(mean if learnt.differs_by_sample else None, normalized, given)


def backward(
    sums: Sums, saved: Saved, learnt: Learnt, form: Form, to_maps: bool
) -> Backward:
    """From the sums to the gradients; arguments as in ``eager_algebra.backward``."""
    learnt, saved = _dense(learnt), saved._replace(var=saved.var.contiguous())
    # Where nobody wants the gradient of ``x``, ranks have nothing to add up.
    if saved.group is None or not to_maps:
        return triton_kernels.gradients(sums, saved, learnt, form, to_maps)
    gradients, statistics = triton_kernels.to_statistics(sums, saved, learnt, form)
    dist.all_reduce(statistics, group=saved.group)
    rest = triton_kernels.to_maps(sums, saved, learnt, form, statistics)
    of_centering = rest.learnt.centering_weight
    return rest._replace(learnt=gradients._replace(centering_weight=of_centering))


def _has_kernel(mean: Tensor, gram: Tensor | None, averages: Averages) -> bool:
    samples, channels = mean.shape
    return (
        (averages.condensation is None or gram is not None)
        and samples <= triton_kernels.MAX_SAMPLES
        and channels <= triton_kernels.MAX_CHANNELS
        and all(t.dtype == torch.float32 for t in _moved(averages))
        and all(t.is_contiguous() for t in _moved(averages))
    )


def _moved(averages: Averages) -> list[Tensor]:
    moved = averages.mean, averages.var, averages.condensation
    return [tensor for tensor in moved if tensor is not None]


def _dense(learnt: Learnt) -> Learnt:
    return Learnt(*(t if t is None else t.contiguous() for t in learnt))


def _note_change(averages: Averages) -> None:
    """Tell autograd that tensors are not what they were, as in-place operations do."""
    for tensor in (*_moved(averages), averages.batches):
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)
