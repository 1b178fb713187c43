"""What a step costs besides time: memory that is kept for backward, and launches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from .timing import Step


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that a forward keeps for backward; parameters and buffers are left out."""
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x.detach().requires_grad_())
    del y  # until here it keeps what is saved, so that no address comes again
    return sum(size for address, size in saved.items() if address not in own)


def count_launches(step: Step, device: torch.device) -> int:
    """How often a step gives a device work: kernels and copies.

    On a CPU these are the operations that compute something, each of which is a launch or
    more on a GPU. Large inputs are computed in parts there, so count with small ones.
    """
    step()  # some tensors are made once
    if device.type == 'cuda':
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize(device)
        return sum(e.device_type == DeviceType.CUDA for e in profiler.events())
    with _Operations() as operations:
        step()
    return operations.count


class _Operations(TorchDispatchMode):
    """Counts operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.count += not function.is_view
        return function(*args, **kwargs or {})
