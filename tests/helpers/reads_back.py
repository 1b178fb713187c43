"""Finds what makes the host wait for the device."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that read a number, or whose result has a size that depends on numbers.
READS = (
    *('_local_scalar_dense', 'equal', 'allclose', 'nonzero', 'masked_select'),
    *('_unique2', 'unique_dim', 'bincount'),
)


class ReadsBack(TorchDispatchMode):
    """Fails at what a GPU would make the host wait for, wherever the tensors are.

    That is to read a number back, to make a tensor whose size depends on numbers, and to
    copy from the host, where a tensor is made of Python's lists and numbers. A tensor that
    is filled with one number (``new_full``, ``where`` with a number) is made on the device.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert not reads_back(name, args), f'{name} reads back to the host'
        # torch.tensor(numbers) and the like end with it, on the device that is asked for.
        assert name != 'lift_fresh', 'a tensor of numbers is copied from the host'
        result = function(*args, **kwargs or {})
        assert not moves(name, args, result), f'{name} copies to another device'
        return result


class CountedReads(TorchDispatchMode):
    """Counts what reads back, and the copies that are asked for on the CPU.

    A tensor that is made of numbers counts as one of the host's own.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        copies = name == '_to_copy' and kwargs.get('device') == torch.device('cpu')
        self.count += copies or reads_back(name, args)
        return function(*args, **kwargs)


def reads_back(name: str, args: tuple) -> bool:
    """Whether an operation has to know numbers on the host."""
    return name in READS or indexes_by_mask(name, args)


def indexes_by_mask(name: str, args: tuple) -> bool:
    """Whether elements are picked by a mask, so that it takes a look how many."""
    if name not in ('index', 'index_put_', 'index_put'):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def moves(name: str, args: tuple, result: object) -> bool:
    """Whether an operation copies between devices; a ``()`` is passed as a number."""
    if name not in ('_to_copy', 'copy_') or not isinstance(result, Tensor):
        return False
    source = args[1] if name == 'copy_' else args[0]
    return source.device != result.device
