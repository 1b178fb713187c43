"""A norm weight that keeps its own starting value through generic initialisers."""

import torch
from torch import Tensor, nn


class InitialWeight(nn.Parameter):
    """A parameter whose "filled with one" means "filled with ``start``".

    The toolbox initialises every norm layer with ``constant_(weight, 1)``, in the
    constructor of each ``ConvModule`` and again through ``init_cfg``, with no hook on the
    norm's side. One is what "start as this norm starts" is spelt there; every other value,
    the 0 of ``zero_init_residual`` above all, is meant and obeyed.

    The class has no part in arithmetic, and lasts until the weight is first used
    (:meth:`settle`): optimizers choose their fast implementations by exact type.
    """

    start: float

    def __new__(cls, data: Tensor, requires_grad: bool = True, start: float = 1.0):
        """Wrap ``data``; the values are the initialiser's business."""
        weight = super().__new__(cls, data, requires_grad)
        weight.start = start
        return weight

    def __deepcopy__(self, memo: dict) -> 'InitialWeight':
        """Copy the starting value too, which ``nn.Parameter`` knows nothing of."""
        copy = super().__deepcopy__(memo)
        copy.start = self.start
        return copy

    def fill_(self, value: float) -> Tensor:
        """Fill in place, reading one as ``start``."""
        return super().fill_(self.start if value == 1 else value)

    @staticmethod
    def settle(weight: Tensor) -> None:
        """Make ``weight`` an ordinary parameter, for good."""
        # The class of an object cannot change under a tracing compiler, nor need it.
        if type(weight) is InitialWeight and not torch.compiler.is_compiling():
            weight.__class__ = nn.Parameter
