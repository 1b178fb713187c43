"""What every stage of the pipeline has in common: the declaration of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The module that has a stage's tensors, under the names of its entries. To a type checker
# any attribute of a module is a tensor or a module, so for it a layer is anything.
Layer = Any


@dataclass(frozen=True)
class Entry:
    """A tensor that a stage wants on its layer.

    The one place for its name, shape and values: the layer's constructor and resets, the
    loading of BatchNorm weights and the conversion of checkpoints all go by it.

    Attributes:
        name: On the layer and in checkpoints.
        neutral: The value at which the stage does nothing, as in a BatchNorm.
        per_channel: The shape is ``(C, *trailing)``, else ``trailing``.
        trailing: The shape's last part.
        start: Fills a fresh tensor in place; None for the neutral value.
        is_parameter: A parameter, else a buffer.
        dtype: None for the layer's own. A counter has its own: in a layer of half
            precision it would soon stand still.
    """

    name: str
    neutral: float
    per_channel: bool = True
    trailing: tuple[int, ...] = ()
    start: Callable[[Tensor], object] | None = None
    is_parameter: bool = True
    dtype: torch.dtype | None = None

    def shape(self, channels: int) -> tuple[int, ...]:
        """The shape on a layer of so many channels."""
        return ((channels,) if self.per_channel else ()) + self.trailing

    def neutral_like(self, like: Tensor, channels: int) -> Tensor:
        """A neutral one on the device of ``like``, and in its dtype if it has no own."""
        return like.new_full(self.shape(channels), self.neutral, dtype=self.dtype)

    def reset(self, tensor: Tensor) -> None:
        """Fill ``tensor`` in place with what it starts from."""
        with torch.no_grad():
            if self.start is None:
                tensor.fill_(self.neutral)
            else:
                self.start(tensor)


@dataclass(eq=False)
class Stage:
    """A step of the pipeline.

    Attributes:
        evaluates_as_batchnorm: Whether in evaluation the stage does what BatchNorm does,
            whatever it has learnt.
    """

    evaluates_as_batchnorm = False

    def entries(self) -> tuple[Entry, ...]:
        """The tensors that the stage wants, beside those of BatchNorm."""
        return ()

    def merge_into_batchnorm(
        self, state: dict[str, Tensor], bias_is_scaled: bool
    ) -> None:
        """Turn the stage's tensors into BatchNorm's, as they act in evaluation, in place.

        Args:
            state: Of one layer, by the names of tensors; loses the stage's own.
            bias_is_scaled: Whether the scaling gate acts on the bias.

        Raises:
            ValueError: If the stage, as it is in ``state``, is more than BatchNorm.
        """
        if not self.evaluates_as_batchnorm:
            raise ValueError(f'{type(self).__name__} does not evaluate as BatchNorm')
        for entry in self.entries():
            state.pop(entry.name, None)
