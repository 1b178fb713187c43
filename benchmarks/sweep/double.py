"""Running a detector in float64, which its code does not expect."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# By name: mmcv.ops has a function of this name in the module's place.
nms_module: Any = import_module('mmcv.ops.nms')


class _Double(TorchFunctionMode):
    """Wherever code asks for float32, it gets float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(_wider(arg) for arg in args)
        return func(*args, **{key: _wider(arg) for key, arg in (kwargs or {}).items()})


def _wider(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


class _SingleNms:
    """MMCV's operators with the suppression, which knows float32 alone, fed with that."""

    def __init__(self, operators: Any) -> None:
        self.operators = operators

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operators, name)

    def nms(self, boxes: Tensor, scores: Tensor, **options: Any) -> Tensor:
        single = 'torch.FloatTensor'  # as a word: the mode above leaves it alone
        return self.operators.nms(boxes.type(single), scores.type(single), **options)


@contextmanager
def double_precision() -> Iterator[None]:
    """A context in which tensors are float64 where code asks for float32, or nothing.

    On 1×1 maps two images are two values per channel: BatchNorm divides by a variance
    that is next to nothing, and float32's rounding becomes as large as the result.
    """
    operators, default = nms_module.ext_module, torch.get_default_dtype()
    nms_module.ext_module = _SingleNms(operators)
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        nms_module.ext_module = operators
        torch.set_default_dtype(default)
