"""Selective activation checkpointing around layers in a residual block."""

import pytest
import torch
from helpers.layers import STAGES, images, trained
from helpers.norm_tester import Block


@pytest.mark.parametrize('name', ['all', 'k=1', 'no affine', 'all off'])
def test_selective_checkpointing_keeps_convolutions(name):
    pytest.importorskip('torch', minversion='2.5')  # has no selective checkpointing
    from torch.utils import checkpoint as cp

    stages = STAGES[name]
    block, again = (Block(trained(4, **stages), trained(4, **stages)) for _ in range(2))
    keep = [torch.ops.aten.convolution.default]

    def contexts():
        return cp.create_selective_checkpoint_contexts(keep)

    x = images(3, 4, 6, 5)
    want = block.step(x)
    x = x.clone().requires_grad_()
    y = cp.checkpoint(again, x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    ours = [y.detach(), x.grad, *(p.grad for p in again.parameters())]
    torch.testing.assert_close(ours, want, rtol=0, atol=0)
