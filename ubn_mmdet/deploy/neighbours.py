"""Which convolutions a norm layer follows, seen by running the model."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Before = dict[nn.Module, set[nn.Module]]


def convolutions_before(
    run: Callable[[], object],
    norms: Collection[nn.Module],
    convolutions: Collection[nn.Module],
) -> Before:
    """The convolutions whose whole output goes into a norm layer, and nowhere else.

    Tensors are followed by identity: modules that take one are seen by hooks, operations
    of PyTorch by a dispatch mode, which also sees a weight or a bias that something else
    uses. (It does not see an operator outside of PyTorch's dispatcher that takes the output
    of a convolution beside the norm, nor what runs in another thread.)

    Returns:
        For each of the ``norms`` that was run: those of the ``convolutions`` that its
        inputs came from, if every one did; else an empty set.
    """
    watch = _Watch(convolutions)
    hooks = [layer.register_forward_pre_hook(watch.makes) for layer in convolutions]
    hooks += [layer.register_forward_hook(watch.made) for layer in convolutions]
    hooks += [layer.register_forward_pre_hook(watch.enters) for layer in norms]
    hooks += [layer.register_forward_hook(watch.leaves) for layer in norms]
    try:
        with watch:
            result = run()
        watch.are_taken(result)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        norm: before if all(watch.takers[one] == {norm} for one in before) else set()
        for norm, before in watch.before.items()
    }


class _Watch(TorchDispatchMode):
    """Notes who takes what convolutions give.

    Attributes:
        before: By norm layer: what gave its inputs; None stands for something else.
        takers: By convolution: the norm layers that took its output; None, likewise.
    """

    def __init__(self, convolutions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.before: dict = defaultdict(set)
        self.takers: dict = defaultdict(set)
        self._owner = {id(t): one for one in convolutions for t in one.parameters()}
        self._maker = WeakTensorKeyDictionary()
        self._making: nn.Module | None = None
        self._norms = 0  # that are running

    def makes(self, convolution: nn.Module, inputs: tuple) -> None:
        self._making = convolution

    def made(self, convolution: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._making = None
        self._maker[output] = convolution

    def enters(self, norm: nn.Module, inputs: tuple) -> None:
        self._norms += 1
        maker = self._maker.get(inputs[0]) if inputs else None
        self.before[norm].add(maker)
        if maker is not None:
            self.takers[maker].add(norm)

    def leaves(self, norm: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._norms -= 1

    def are_taken(self, tensors: object) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and tensor in self._maker:
                self.takers[self._maker[tensor]].add(None)
            owner = self._owner.get(id(tensor))
            if owner is not None and owner is not self._making:
                self.takers[owner].add(None)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self._norms:
            self.are_taken((args, kwargs))
        return function(*args, **(kwargs or {}))
