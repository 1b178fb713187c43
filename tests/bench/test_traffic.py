"""Bytes that kernels are said to move are those that their index arithmetic touches."""

from importlib import import_module

import numpy as np
import pytest
import torch
from helpers.layers import images

triton = pytest.importorskip('triton', reason='Triton is not installed')

from ubn_mmdet import UBN, choose_passes  # noqa: E402
from ubn_mmdet.bench import traffic  # noqa: E402
from ubn_mmdet.bench.operations import Operations  # noqa: E402
from ubn_mmdet.ops.triton_kernels.launch import Launch  # noqa: E402

STEP = {
    1: ['_moments_of_parts', '_moments_of_maps', '_apply']
    + ['_sums_of_parts', '_sums_of_maps', '_gradient'],
    3: ['_moments_of_parts', '_moments_of_maps', '_apply']
    + ['_sums_of_parts_with_kernel', '_sums_of_maps', '_gradient'],
}
LAUNCHING = [
    import_module(f'ubn_mmdet.ops.triton_kernels.{name}')
    for name in ('moments', 'apply', 'reduce', 'gradient')
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
        end = start + tensor.untyped_storage().nbytes()
        inside = [address for address in addresses if start <= address < end]
        total += tensor.element_size() * len(inside)
    return total


@KERNELS
@pytest.mark.skipif(torch.cuda.is_available(), reason='kernels are not interpreted')
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


@KERNELS
def test_launches_of_a_step(kernel_size, monkeypatch):
    layer = UBN(4, kernel_size=kernel_size)
    own = 0  # of the interpreter, or of a launch on a GPU

    def counted(launch):
        def launched(*args, **constants):
            nonlocal own
            before = len(noted.names)
            launch(*args, **constants)
            own += len(noted.names) - before

        return launched

    for module in LAUNCHING:
        monkeypatch.setattr(module, 'launch', counted(module.launch))
    counts = []
    with choose_passes('triton'):
        with Operations() as noted:
            y = layer(images(2, 4, 2, 3).float().requires_grad_())
        allocated = sum(name.startswith(('empty', 'new_empty')) for name in noted.names)
        counts.append(len(noted.names) - own - allocated)
        own, upstream = 0, torch.ones_like(y)
        with Operations() as noted:
            y.backward(upstream)
        allocated = sum(name.startswith(('empty', 'new_empty')) for name in noted.names)
        counts.append(len(noted.names) - own - allocated)
    # What is left is the algebra on small tensors.
    assert counts[0] <= 34 and counts[1] <= 36, counts


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
    assert sum(map(len, ours.values())) <= 8


def test_an_expanded_tensor_counts_once():
    assert traffic.distinct_bytes(torch.zeros(1, 5).expand(3, 5)) == 20


def test_times_follow_from_bytes():
    row = traffic.rows(torch.float32)[0]
    milliseconds = row['predicted ms']['A100 40 GB']['UBN k=3']
    assert milliseconds == pytest.approx(row['bytes']['UBN k=3'] / 1.56e9)
    page = traffic.time_table()
    assert page.count('\n') == len(traffic.R50_FPN) + 1
