"""Finds what makes the host wait for the device."""

from torch.utils._python_dispatch import TorchDispatchMode


class ReadsBack(TorchDispatchMode):
    """Fails at what reads a number back to the host."""

    names = '_local_scalar_dense', 'item', 'nonzero', 'equal', 'is_nonzero'

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.names, f'{name} reads back to the host'
        return function(*args, **kwargs or {})
