"""Bytes that kernels are said to move are those that their index arithmetic touches."""

from importlib import import_module

import numpy as np
import pytest
import torch
from helpers.interpreter import INTERPRETED
from helpers.layers import images

triton = pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet.ops.triton_kernels import GRAM_SAMPLES  # noqa: E402
from ubn_mmdet.ops.triton_kernels.launch import Launch, noting  # noqa: E402

from ubn_mmdet import UBN, choose_passes  # noqa: E402
from ubn_mmdet.bench import traffic  # noqa: E402
from ubn_mmdet.bench.operations import Operations  # noqa: E402

STEP = {
    k: [
        *('_moments_of_parts', '_moments_of_maps', '_coefficients', '_apply'),
        *(sums, '_sums_of_maps', '_gradients', '_gradient'),
    ]
    for k, sums in ((1, '_sums_of_parts'), (3, '_sums_of_parts_with_kernel'))
}
LAUNCHING = [
    import_module(f'ubn_mmdet.ops.triton_kernels.{name}')
    for name in (
        *('moments', 'coefficients', 'apply'),
        *('reduce', 'coefficients_backward', 'gradient'),
    )
]
KERNELS = pytest.mark.parametrize('kernel_size', STEP)


class Touched:
    """Notes the bytes that interpreted kernels load and store, each once a launch."""

    def __init__(self, monkeypatch):
        from triton.runtime.interpreter import InterpreterBuilder

        self.launches = []
        for module in LAUNCHING:
            monkeypatch.setattr(module, 'launch', self._around(module.launch))
        for name in ('create_masked_load', 'create_masked_store'):
            own = self._noting(getattr(InterpreterBuilder, name), 'load' in name)
            monkeypatch.setattr(InterpreterBuilder, name, own)

    def _around(self, launch):
        def launched(kernel, programs, *args, **constants):
            self.loaded, self.stored = set(), set()
            launch(kernel, programs, *args, **constants)
            arguments = dict(zip(kernel.arg_names, args, strict=False))
            noted = Launch(kernel.__name__, programs, arguments)
            self.launches.append((noted, self.loaded, self.stored))

        return launched

    def _noting(self, access, is_load):
        def noted(builder, pointers, *args, **kwargs):
            mask = args[0] if is_load else args[1]
            there = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
            (self.loaded if is_load else self.stored).update(there.tolist())
            return access(builder, pointers, *args, **kwargs)

        return noted


def size_of(addresses, tensors):
    """Bytes of the tensors at those addresses."""
    total = 0
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        start = tensor.data_ptr()
        span = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * stride for size, stride in span)
        end = start + tensor.element_size() * (last + 1)
        inside = [address for address in addresses if start <= address < end]
        total += tensor.element_size() * len(inside)
    return total


@INTERPRETED
@KERNELS
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_layer_touches_what_is_counted(kernel_size, layout, monkeypatch):
    shape = 2, 3, 6, 7
    x = images(*shape).float().contiguous(memory_format=layout).requires_grad_()
    counted = traffic.layer_traffic(shape, kernel_size, memory_format=layout)
    counted = [*counted['forward'], *counted['backward']]
    touched = Touched(monkeypatch)
    with choose_passes('triton'):
        UBN(3, kernel_size=kernel_size)(x).sum().backward()
    assert [launch.kernel for launch, *_ in touched.launches] == STEP[kernel_size]
    for (launch, loaded, stored), expected in zip(
        touched.launches, counted, strict=True
    ):
        tensors = [t for t in launch.arguments.values() if isinstance(t, torch.Tensor)]
        size_loaded, size_stored = size_of(loaded, tensors), size_of(stored, tensors)
        assert expected['kernel'] == launch.kernel
        assert size_stored == sum(expected['writes'].values()), launch.kernel
        # An argument that a channel shares may count as one of each map.
        assert size_loaded == pytest.approx(sum(expected['reads'].values()), rel=0.1)


@INTERPRETED
@pytest.mark.parametrize('samples', [2, 12])
@KERNELS
def test_launches_of_a_step(kernel_size, samples):
    layer = UBN(4, kernel_size=kernel_size)
    x = images(samples, 4, 2, 3).float().requires_grad_()
    wanted, upstream = [x, *layer.parameters()], torch.ones_like(x)
    with choose_passes('triton'), noting() as launches, Operations() as noted:
        torch.autograd.grad(layer(x), wanted, upstream)
    beside = [name for name in noted.names if 'empty' not in name]
    assert len(launches) == 8
    if samples <= GRAM_SAMPLES:
        assert beside == []
    else:  # the products of more samples
        assert beside == ['mm.default']


@KERNELS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_bytes_are_those_of_batchnorm(kernel_size, dtype):
    shape = 2, 256, 50, 84
    ours = traffic.layer_traffic(shape, kernel_size, dtype)
    x = 2 * 256 * 50 * 84 * dtype.itemsize
    theirs = traffic.batchnorm_bytes(shape, dtype)
    assert theirs == {'forward': 3 * x, 'backward': 5 * x}
    large = {'x', 'dy', 'y', 'dx'}
    for direction, launches in ours.items():
        moved = [
            name
            for launch in launches
            for what in ('reads', 'writes')
            for name in launch[what]
        ]
        assert sum(name in large for name in moved) * x == theirs[direction]
        assert 1 < traffic.total_bytes(launches) / theirs[direction] < 1.03
    assert sum(map(len, ours.values())) <= 8  # launches a step


def test_an_expanded_tensor_counts_once():
    assert traffic.distinct_bytes(torch.zeros(1, 5).expand(3, 5)) == 20


def test_times_follow_from_bytes():
    row = traffic.rows(torch.float32)[0]
    milliseconds = row['predicted ms']['A100 40 GB']['UBN k=3']
    assert milliseconds == pytest.approx(row['bytes']['UBN k=3'] / 1.56e9)
    page = traffic.time_table()
    assert page.count('\n') == len(traffic.R50_FPN) + 1
