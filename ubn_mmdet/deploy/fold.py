"""Folds norm layers into convolutions, where evaluation stays what it was."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ..layers import CentralizedConv2d
from ..layers.padding import leaves_padding_out
from ..layers.pipeline import PipelineNorm
from ..layers.stages.affine import spatial_kernel
from .neighbours import convolutions_before
from .structure import Fold, modules_by_name, restructure

BATCHNORMS = nn.BatchNorm2d, nn.SyncBatchNorm  # and no subclasses: they do more
# Subclasses may do to their weight what a factor in it does not survive.
CONVOLUTIONS: tuple[type[nn.Module], ...] = nn.Conv2d, CentralizedConv2d


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
        ValueError: If it depends on the input, or its tensors on something else; the
            message names what does.
    """
    if norm._forward_pre_hooks or is_parametrized(norm):
        raise ValueError('a hook or a parametrization makes its tensors (prune)')
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in norm.state_dict().items()
    }
    if 'running_var' not in state:
        raise ValueError('it has no running statistics')
    state.setdefault('weight', torch.ones_like(state['running_var']))
    state.setdefault('bias', torch.zeros_like(state['running_var']))
    if isinstance(norm, PipelineNorm):
        state = norm.stages.as_batchnorm(state)
    scale = torch.rsqrt(state['running_var'] + norm.eps)
    shift = -scale * state['running_mean']
    weight, bias = state['weight'], state['bias']
    if 'spatial_weight' not in state:
        return Evaluation(weight * scale, weight * shift + bias)
    kernel = spatial_kernel(weight, state['spatial_weight'])
    return Evaluation(scale, shift, kernel, bias)


@dataclass(frozen=True)
class FoldReport:
    """What :func:`fold` did.

    Attributes:
        folds: What became of each layer that was folded.
        left: Why the others were left as they are, by their names.
    """

    folds: tuple[Fold, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        into = sum(bool(fold.convolutions) for fold in self.folds)
        counts = (
            f'{into} norm layers folded into convolutions, {len(self.folds) - into} into '
            f'BatchNorm, {len(self.left)} left'
        )
        lines = [counts, *map(str, self.folds)]
        lines += [f'{name}: left, {reason}' for name, reason in self.left.items()]
        return '\n'.join(lines)


@torch.no_grad()
def fold(
    model: nn.Module,
    run: Callable[[], object],
    convolutions: tuple[type[nn.Module], ...] = CONVOLUTIONS,
) -> FoldReport:
    """Turn norm layers into arithmetic of convolutions, in place, for inference.

    A layer whose evaluation does not depend on its input normalises by a scale and a
    shift of each channel. Where it follows a convolution, these go into the convolution's
    weight and bias, and nothing is left of it; of a k x k kernel, a depthwise convolution
    of the same padding. It stays a convolution of its own: it pads the normalised map
    with zeros, and a convolution that the two were composed into would look beyond the
    border at what the convolution before gives there. Elsewhere the layer becomes a
    BatchNorm, and a depthwise convolution. Either way the result is the same to rounding,
    borders included. UBN's evaluation depends on its input where centering or scaling
    have learnt something: such layers are left.

    Plain BatchNorm2d is folded, too, where it follows a convolution. The new parameters
    need no gradients: the model is for inference alone. Hooks of norm layers are lost.

    Args:
        model: In evaluation mode.
        run: Runs the model on an example, such as ``lambda: model(images)``. What follows
            what is seen from that run: a layer that it does not reach becomes a BatchNorm.
        convolutions: The classes into which a factor may be folded; no subclasses.

    Returns:
        What was done with which layer, to print.

    Raises:
        ValueError: If the model leaves padding out, or a norm layer is in training mode or
            is the model itself.
    """
    if leaves_padding_out(model):
        raise ValueError(
            'a model that leaves padding out (PaddingAware, hide_padding) cannot be '
            'folded: its norm layers write zeros where images are padded, and what is '
            'folded does not. A detector with DetDataPreprocessor can'
        )
    norms = {module: name for name, module in model.named_modules() if is_norm(module)}
    # Children that a norm layer applies to its result stay as they are.
    inside = {child for norm in norms for child in norm.modules() if child is not norm}
    norms = {norm: name for norm, name in norms.items() if norm not in inside}
    if model in norms:
        raise ValueError('the model is a norm layer: there is nothing to fold it into')
    for norm, name in norms.items():
        if norm.training:
            raise ValueError(
                f'{name} is in training mode: call eval() on the model first'
            )
    evaluations: dict[_BatchNorm, Evaluation] = {}
    left = {}
    for norm, name in norms.items():
        try:
            evaluations[norm] = evaluation_of(norm)
        except ValueError as error:
            left[name] = str(error)
    names = {
        module: name
        for name, module in model.named_modules()
        if type(module) in convolutions and module not in inside
        # A hook, such as that of weight_norm, would not know of the factor.
        if not (module._forward_pre_hooks or module._forward_hooks)
    }
    before = convolutions_before(run, norms, names)
    folds, folded = [], []
    for norm, evaluation in evaluations.items():
        into = tuple(names[convolution] for convolution in before.get(norm, ()))
        if into or type(norm) not in BATCHNORMS:
            folds.append(Fold(norms[norm], tuple(sorted(into)), evaluation.kernel_size))
            folded.append(evaluation)
    made = restructure(model, folds)
    modules = modules_by_name(model)
    for one, evaluation, new in zip(folds, folded, made, strict=True):
        for name in one.convolutions:
            _scale(modules[name], evaluation)
        _fill(new, evaluation)
    return FoldReport(tuple(folds), left)


def _scale(convolution: nn.Module, evaluation: Evaluation) -> None:
    weight = convolution.get_parameter('weight')
    bias = convolution.get_parameter('bias')
    scale, shift = evaluation.scale, evaluation.shift
    scaled = scale[:, None, None, None] * weight.double()
    convolution.weight = _parameter(scaled, weight)
    convolution.bias = _parameter(scale * bias.double() + shift, bias)


def _fill(new: list[nn.Module], evaluation: Evaluation) -> None:
    """Write the values of the modules that stand in the place of a norm layer."""
    for module in new:
        if isinstance(module, nn.BatchNorm2d):
            # Of statistics as they start, 0 and 1.
            weight = evaluation.scale * math.sqrt(1 + module.eps)
            module.weight = _parameter(weight, module.weight)
            module.bias = _parameter(evaluation.shift, module.bias)
        else:
            kernel, bias = module.get_parameter('weight'), module.get_parameter('bias')
            assert evaluation.kernel is not None and evaluation.bias is not None
            module.weight = _parameter(evaluation.kernel[:, None], kernel)
            module.bias = _parameter(evaluation.bias, bias)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)
