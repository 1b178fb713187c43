"""Finds what makes the host wait for the device."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ReadsBack(TorchDispatchMode):
    """Fails at what a GPU would make the host wait for, wherever the tensors are.

    That is to read a number back, to make a tensor whose size depends on numbers, and to
    copy from the host, where a tensor is made of Python's lists and numbers. A tensor that
    is filled with one number (``new_full``, ``where`` with a number) is made on the device.
    """

    reads = (
        *('_local_scalar_dense', 'item', 'equal', 'is_nonzero', 'allclose'),
        *('nonzero', 'masked_select', '_unique2', 'unique_dim', 'bincount'),
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.reads, f'{name} reads back to the host'
        assert not indexes_by_mask(name, args), f'{name} by a mask reads back'
        # torch.tensor(numbers) and the like end with it, on the device that is asked for.
        assert name != 'lift_fresh', 'a tensor of numbers is copied from the host'
        result = function(*args, **kwargs or {})
        assert not moves(name, args, result), f'{name} copies to another device'
        return result


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
