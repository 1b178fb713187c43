"""What a norm layer does in evaluation, where that does not depend on its input."""

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers.pipeline import PipelineNorm
from ..layers.stages.affine import spatial_kernel

BATCHNORMS = nn.BatchNorm2d, nn.SyncBatchNorm  # and no subclasses: they do more


class Evaluation(NamedTuple):
    """``y = depthwise(scale * x + shift; kernel) + bias``, zero padding, in float64.

    Attributes:
        scale: ``(C,)``.
        shift: ``(C,)``.
        kernel: ``(C, k, k)``; None, as is ``bias``, where there are no neighbours in it.
        bias: ``(C,)``.
    """

    scale: Tensor
    shift: Tensor
    kernel: Tensor | None = None
    bias: Tensor | None = None

    @property
    def kernel_size(self) -> int:
        """``k``; 1 without a kernel."""
        return 1 if self.kernel is None else self.kernel.shape[-1]


def is_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module is of the family, or a BatchNorm of 4D input."""
    return isinstance(module, PipelineNorm) or type(module) in BATCHNORMS


@torch.no_grad()
def evaluation_of(norm: _BatchNorm) -> Evaluation:
    """The evaluation of a norm layer, whatever its input is.

    Raises:
        ValueError: If it depends on the input; the message names what does.
    """
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in norm.state_dict().items()
    }
    if 'running_var' not in state:
        raise ValueError('it has no running statistics')
    state.setdefault('weight', torch.ones_like(state['running_var']))
    state.setdefault('bias', torch.zeros_like(state['running_var']))
    if isinstance(norm, PipelineNorm):
        try:
            state = norm.stages.fold(state)
        except ValueError:
            state = norm.stages.fold(state, keeps_kernel=True)
    scale = torch.rsqrt(state['running_var'] + norm.eps)
    shift = -scale * state['running_mean']
    weight, bias = state['weight'], state['bias']
    if 'spatial_weight' not in state:
        return Evaluation(weight * scale, weight * shift + bias)
    kernel = spatial_kernel(weight, state['spatial_weight'])
    return Evaluation(scale, shift, kernel, bias)
