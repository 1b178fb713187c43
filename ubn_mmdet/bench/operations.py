"""Counts the operations that a layer dispatches: on a GPU each is a launch or more.

Views are left out: they compute nothing. What is counted on a CPU holds for small maps;
on larger ones the passes over ``x`` take some maps at a time, so that a cache serves them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..layers import BGN, BNET, IEBN, MABN, RBN, UBN, BatchRenorm, InitBN, PowerNorm

SHAPE = (2, 64, 8, 8)  # two images a GPU, the usual case
PHASES = ('forward', 'backward', 'evaluation')


def family(channels: int = SHAPE[1]) -> dict[str, nn.Module]:
    """BatchNorm, what UBN is counted against, and all of the family."""
    return {
        'BatchNorm': nn.BatchNorm2d(channels),
        'BatchNorm + depthwise 3x3': nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        ),
        'UBN k=1': UBN(channels, kernel_size=1),
        'UBN k=3': UBN(channels),
        'UBN k=1, pooled': UBN(channels, kernel_size=1, condensation_feature='pooled'),
        'UBN k=1, no gate': UBN(channels, kernel_size=1, condensation_threshold=None),
        'RBN': RBN(channels),
        'BNET': BNET(channels),
        'InitBN': InitBN(channels),
        'IEBN': IEBN(channels),
        'BGN': BGN(channels, 16),
        'BatchRenorm': BatchRenorm(channels),
        'MABN': MABN(channels),
        'PowerNorm': PowerNorm(channels),
    }


class Operations(TorchDispatchMode):
    """Notes each operation within it that is not a view.

    Attributes:
        names: In the order of the calls, such as ``'add.Tensor'``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Note it and call it."""
        if not function.is_view:
            self.names.append(str(function).removeprefix('aten.'))
        return function(*args, **kwargs or {})


def operations(
    layer: nn.Module,
    shape: tuple[int, ...] = SHAPE,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, list[str]]:
    """The operations of a layer in its second training step, and in evaluation after it.

    By ``PHASES``. In the first step some tensors are made that last.
    """

    def maps() -> Tensor:
        return torch.randn(shape).contiguous(memory_format=memory_format)

    layer.train()
    for _ in range(2):
        x, upstream = maps().requires_grad_(), maps()
        layer.zero_grad()
        with Operations() as forward:
            y = layer(x)
        with Operations() as backward:
            y.backward(upstream)
    layer.eval()
    x = maps().requires_grad_()
    with Operations() as evaluation:
        layer(x)
    found = forward.names, backward.names, evaluation.names
    return dict(zip(PHASES, found, strict=True))


def count_operations(
    layers: Mapping[str, nn.Module], shape: tuple[int, ...] = SHAPE
) -> dict[str, dict[str, int]]:
    """How many :func:`operations` each layer has, by its name and by ``PHASES``."""
    return {
        name: {phase: len(names) for phase, names in operations(layer, shape).items()}
        for name, layer in layers.items()
    }
