"""A norm weight that keeps its own starting value through generic initialisers."""

from typing import cast

import torch
from torch import Tensor, nn


class InitialWeight(nn.Parameter):
    """A parameter whose "filled with one" means "filled with ``start``".

    The toolbox initialises every norm layer with ``constant_(weight, 1)``, in the
    constructor of each ``ConvModule`` and again through ``init_cfg``, with no hook on the
    norm's side. One is what "start as this norm starts" is spelt there; every other value
    is taken as it is, above all the 0 of ``zero_init_residual``.

    A parameter is of this class only from when somebody asks the layer for it
    (:meth:`mark`) until the layer's next forward (:meth:`settle`): optimizers choose their
    fast implementations by exact type. The class has no part in arithmetic.

    What it sees is ``fill_``, of which ``nn.init.constant_`` and ``nn.init.ones_`` make
    use, the toolbox's or not. What it cannot see is ``weight.data.fill_(1)``, or a copy
    from a tensor of ones.
    """

    start: float

    @staticmethod
    def mark(weight: Tensor | None, start: float) -> None:
        """Make an ordinary parameter one of this class."""
        # The class of an object cannot change under a tracing compiler.
        if (
            weight is not None
            and type(weight) in (nn.Parameter, InitialWeight)  # a copy has no start
            and not torch.compiler.is_compiling()
        ):
            weight.__class__ = InitialWeight
            cast(InitialWeight, weight).start = start

    @staticmethod
    def settle(weight: Tensor | None) -> None:
        """Make it an ordinary parameter again."""
        if type(weight) is InitialWeight and not torch.compiler.is_compiling():
            weight.__class__ = nn.Parameter  # type: ignore[assignment]
            weight.__dict__.pop('start', None)

    def fill_(self, value: float) -> Tensor:  # type: ignore[override]
        """Fill in place, reading one as ``start``."""
        return super().fill_(self.start if value == 1 else value)
