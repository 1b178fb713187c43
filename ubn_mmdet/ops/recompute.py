"""Forwards that are repeated: activation checkpointing runs one again in the backward.

A repeated forward must give what the first one gave, and move nothing a second time. So a
layer remembers, of its last calls, the settings that they ran under (:func:`remembered`)
and the state that they were normalised with (:class:`Calls`).
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import checkpoint
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode,
)

REMEMBERED = 8  # calls of one layer between a forward and its backward
# Repeated on other kernels, a batch's statistics differ by rounding; another batch's by
# more. In standard deviations.
_SAME = 1e-3

T = TypeVar('T')

# The modes of selective checkpointing, which came with PyTorch 2.5.
_SELECTIVE = tuple(
    getattr(checkpoint, name)
    for name in ('_CachingTorchDispatchMode', '_CachedTorchDispatchMode')
    if hasattr(checkpoint, name)
)


def is_in_backward() -> bool:
    """Whether a backward is running, on this thread."""
    # A compiler traces forward and backward apart, and cannot trace this question.
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def unwatched() -> AbstractContextManager:
    """A context that selective activation checkpointing does not look into.

    It counts a forward's operations, and expects the same ones when it is repeated.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    if isinstance(_get_current_dispatch_mode(), _SELECTIVE):
        return _disable_current_modes()
    return nullcontext()


def not_recomputed(tensor: Tensor) -> Tensor:
    """``tensor``, for the backward of a compiled function.

    A compiler may recompute it there, and has been seen to do so (PyTorch 2.13) from
    buffers that the forward had changed in the meantime. It recomputes no concatenation.
    """
    return torch.stack([tensor, tensor])[0]


class _Settings(dict):
    """What a layer remembers; its copies start without."""

    def __reduce__(self) -> tuple:
        return _Settings, ()


def remembered(layer: nn.Module, name: str, value: T | None, x: Tensor) -> T | None:
    """A setting of this call of ``layer``.

    Settings hold for the thread and the ``with`` block in which they were made. A repeated
    forward may run on another thread, or after the block has ended: then it gets what the
    layer's last call on an input of this shape had.

    Args:
        layer: Keeps the setting between calls, for the last few shapes.
        name: Of the setting.
        value: What is set here; None for nothing.
        x: The input of the call.
    """
    kept = layer.__dict__.setdefault('_remembered_settings', _Settings())
    key = name, tuple(x.shape)
    if is_in_backward():
        return kept.get(key) if value is None else value
    kept.pop(key, None)
    if value is not None:
        kept[key] = value  # as the newest
        if len(kept) > 2 * REMEMBERED:  # a call may have two settings
            del kept[next(iter(kept))]
    return value


class Calls:
    """The last calls of a layer in training; a repeated one finds itself among them.

    A call is recognised by the statistics of its batch. Nothing is read back to the host.
    Copies of a layer start without a memory.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple] = deque(maxlen=REMEMBERED)
        self._found: tuple[int, Tensor] | None = None  # in which backward, and which

    def __reduce__(self) -> tuple:
        return Calls, ()

    @torch.no_grad()
    def once(
        self, advance: Callable[[Any], tuple[Tensor, ...]], batch: Any, eps: float
    ) -> tuple[Tensor, ...]:
        """Move a layer's state with a batch, but not for a repeated forward.

        Args:
            advance: Moves the state, and returns what of it the batch is normalised with.
            batch: A named tuple with ``mean`` and biased ``var``, ``(C,)``, and
                ``is_counted``, whether it moves the state, ``()`` bool or None for yes.
            eps: Of the layer.

        Returns:
            What ``advance`` returns, or returned when the forward ran first.
        """
        # Detached also from forward-mode derivatives, which are not for buffers.
        batch = batch._replace(mean=batch.mean.detach(), var=batch.var.detach())
        with unwatched():
            if torch.compiler.is_compiling():
                return tuple(map(not_recomputed, advance(batch)))
            if torch._C._are_functorch_transforms_active():
                return advance(batch)
            if not is_in_backward():
                state = advance(batch)
                self._calls.append((batch.mean, batch.var, state))
                return state
            found = self._find(batch.mean, batch.var, eps)
            if found is None:
                return advance(batch)
            repeated, past = found
            is_new = ~repeated
            if batch.is_counted is not None:
                is_new = batch.is_counted & is_new
            present = advance(batch._replace(is_counted=is_new))
            pairs = zip(past, present, strict=True)
            return tuple(torch.where(repeated, *pair) for pair in pairs)

    def _find(
        self, mean: Tensor, var: Tensor, eps: float
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """The remembered call that had a batch of these statistics.

        Returns:
            Whether there is one, ``()`` bool, and its state (any one's, if not); None if
            no call could be compared. Equal calls are found in turn, the last one first;
            one that has been found is found again only where there is no other, as a
            checkpoint within another repeats it twice.
        """
        kind = mean.shape, mean.device, mean.dtype
        calls = [
            call
            for call in reversed(self._calls)
            if (call[0].shape, call[0].device, call[0].dtype) == kind
        ]
        if not calls:
            return None
        means, variances, states = zip(*calls, strict=True)
        scale = torch.rsqrt(var + eps)
        shift = ((torch.stack(means) - mean) * scale).abs().amax(dim=1)
        growth = ((torch.stack(variances) - var) * scale.square()).abs().amax(dim=1)
        distance = torch.maximum(shift, growth)
        taken = self._taken(distance)
        distance = torch.where(distance.isnan(), torch.inf, distance)
        best = distance.where(~taken | (distance >= _SAME), _SAME).argmin().view(1)
        taken.index_fill_(0, best, True)
        state = tuple(
            torch.stack(values).index_select(0, best).squeeze(0)
            for values in zip(*states, strict=True)
        )
        return (distance.index_select(0, best) < _SAME).squeeze(0), state

    def _taken(self, distance: Tensor) -> Tensor:
        """``(calls,)`` bool, those that have been found already in this backward."""
        task = torch._C._current_graph_task_id()
        if self._found is not None:
            in_task, taken = self._found
            if in_task == task and taken.shape == distance.shape:
                return taken
        taken = torch.zeros_like(distance, dtype=torch.bool)
        self._found = task, taken
        return taken
