"""Selective activation checkpointing around layers in a residual block."""

import pytest
import torch
from helpers.layers import STAGES, images, trained
from helpers.norm_tester import Block
from torch.utils._python_dispatch import TorchDispatchMode


class Watched(TorchDispatchMode):
    """Changes nothing. A layer then adds biases as it does under checkpointing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize(
    ('size', 'dtype'), [((6, 5), torch.float64), ((64, 64), torch.float32)], ids=str
)
def test_selective_checkpointing_keeps_convolutions(stages, size, dtype):
    pytest.importorskip('torch', minversion='2.5')  # has no selective checkpointing
    from torch.utils import checkpoint as cp

    block, again = (
        Block(trained(4, **stages), trained(4, **stages)).to(dtype) for _ in range(2)
    )
    keep = [torch.ops.aten.convolution.default]

    def contexts():
        return cp.create_selective_checkpoint_contexts(keep)

    x = images(3, 4, *size).to(dtype)
    with Watched():
        want = block.step(x)
    x = x.clone().requires_grad_()
    y = cp.checkpoint(again, x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    ours = [y.detach(), x.grad, *(p.grad for p in again.parameters())]
    torch.testing.assert_close(ours, want, rtol=0, atol=0)
