"""The modules that stand in the place of folded norm layers, without their values."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..layers.convert import replace_submodule


class Fold(NamedTuple):
    """What becomes of one norm layer.

    Attributes:
        norm: Its name in the model.
        convolutions: The names of the convolutions that take its scale and shift; none
            where a BatchNorm stays in its place.
        kernel_size: That of the depthwise convolution that follows; 1 for none.
    """

    norm: str
    convolutions: Sequence[str]
    kernel_size: int

    def __str__(self) -> str:
        k = self.kernel_size
        kernel = '' if k == 1 else f' and a {k}x{k} depthwise convolution'
        into = ', '.join(self.convolutions) or 'a BatchNorm'
        return f'{self.norm}: into {into}{kernel}'


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """All modules; one that occurs in several places has several names."""
    return dict(model.named_modules(remove_duplicate=False))


def restructure(model: nn.Module, folds: Iterable[Fold]) -> list[list[nn.Module]]:
    """Give a model the modules that ``folds`` say, in place; their values are arbitrary.

    Returns:
        For each norm layer: the new modules that stand in its place, before the children
        that it applied to its result.

    Raises:
        ValueError: If the model has no module of a name.
    """
    modules = modules_by_name(model)
    made = []
    for fold in folds:
        for name in (fold.norm, *fold.convolutions):
            if name not in modules:
                raise ValueError(f'the model has no {name}, which is to be folded')
        norm = modules[fold.norm]
        for name in fold.convolutions:
            _add_bias(modules[name])
        # In mixed precision the convolution says what its output is.
        before = [modules[name].get_parameter('weight') for name in fold.convolutions]
        like = before[0] if before else norm.get_buffer('running_var')
        channels = len(norm.get_buffer('running_var'))
        new = _new_modules(like, channels, bool(before), fold.kernel_size)
        after = [
            norm.get_submodule(name) for name in getattr(norm, 'applied_after', ())
        ]
        parts = [*new, *after] or [nn.Identity()]
        whole = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
        replacement = whole.eval()
        for name, module in modules.items():
            if module is norm:
                replace_submodule(model, name, replacement)
        made.append(new)
    return made


def _add_bias(convolution: nn.Module) -> None:
    if convolution._parameters['bias'] is None:
        weight = convolution.get_parameter('weight')
        convolution.bias = nn.Parameter(weight.new_zeros(len(weight)))


def _new_modules(
    like: Tensor, channels: int, is_folded: bool, kernel_size: int
) -> list[nn.Module]:
    parts: list[nn.Module] = []
    if not is_folded:
        parts.append(nn.BatchNorm2d(channels))
    if kernel_size > 1:
        padding = kernel_size // 2
        parts.append(
            nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
        )
    return [part.to(like.device, like.dtype) for part in parts]
