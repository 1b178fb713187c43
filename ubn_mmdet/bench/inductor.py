"""How many kernels ``torch.compile`` makes of the algebra: counted, not measured.

Inductor writes Triton kernels for a CPU's tensors too, if it is told to and believes that
there is a GPU. Here they are written and counted, and never run: results are garbage. That
takes inductor's internals as they are in PyTorch 2.13.

``python -m ubn_mmdet.bench.inductor`` prints the figures of docs/performance.md.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor

from ..layers import UBN
from ..ops import algebra, eager_algebra, eager_steps
from ..ops.dispatch import choose_passes

SHAPES = (2, 256, 50, 84), (16, 256, 14, 14)
SIZES = 1, 3
TARGET = ('cuda', 90, 32)  # an H100


def count_kernels(
    shape: tuple[int, int, int, int], kernel_size: int = 1
) -> dict[str, int]:
    """Launches of inductor's algebra in a layer's training step, by direction.

    The second step is counted: nothing is compiled there. The products of all samples are
    given, as by the hand-written kernels, and the passes over ``x`` are not counted.

    Args:
        shape: Of the input, ``(N, C, H, W)``.
        kernel_size: Of the layer.
    """
    layer = UBN(shape[1], kernel_size=kernel_size)
    x = torch.randn(shape, requires_grad=True)
    with _kernels() as launches, choose_passes('fused'):
        counted = {
            name: _Counted(torch.compile(function), launches)
            for name, function in (
                ('forward', eager_algebra.forward),
                ('backward', eager_algebra.backward),
            )
        }
        ours = SimpleNamespace(**counted)
        with (
            mock.patch.object(eager_steps, 'algebra', ours),
            mock.patch.object(eager_steps, 'moments', _moments),
        ):
            for _ in range(2):
                layer(x).sum().backward()
    return {name: function.launches for name, function in counted.items()}


class _Counted:
    """A function that notes how many kernels its last call launched."""

    def __init__(self, function: Callable, launches: list[str]) -> None:
        self._function, self._launches = function, launches
        self.launches = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        before = len(self._launches)
        result = self._function(*args, **kwargs)
        self.launches = len(self._launches) - before
        return result


def _moments(x: Tensor, gram: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    mean, var = x.mean((2, 3)), x.var((2, 3), correction=0)
    return mean, var, algebra.gram(x) if gram else None


@contextmanager
def _kernels() -> Iterator[list[str]]:
    """Inductor writes Triton within it; the names of what would be launched."""
    import triton
    from torch._inductor import async_compile, config
    from triton.backends.compiler import GPUTarget

    launches: list[str] = []

    def kernel(_self: object, name: str, _source: str, **_device: str) -> object:
        return SimpleNamespace(run=lambda *_args, **_options: launches.append(name))

    driver = mock.Mock()
    driver.get_current_target.return_value = GPUTarget(*TARGET)
    with (
        config.patch(
            cpu_backend='triton', compile_threads=1, force_disable_caches=True
        ),
        mock.patch.object(triton.runtime.driver, '_active', driver),
        mock.patch.object(async_compile.AsyncCompile, 'triton', kernel),
    ):
        torch.compiler.reset()
        try:
            yield launches
        finally:
            torch.compiler.reset()  # for nobody to find what cannot run


def main() -> None:
    """Print the counts."""
    for shape, kernel_size in product(SHAPES, SIZES):
        print(f'{shape}, k={kernel_size}: {count_kernels(shape, kernel_size)}')


if __name__ == '__main__':
    main()
