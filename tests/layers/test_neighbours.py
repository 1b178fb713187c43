"""Selective activation checkpointing around layers in a residual block."""

import pytest
import torch
from helpers.layers import STAGES, images, trained
from helpers.norm_tester import Block


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('size', [(6, 5), (64, 64)], ids=str)  # as in ops/passes.py
def test_selective_checkpointing_keeps_convolutions(stages, size):
    pytest.importorskip('torch', minversion='2.5')  # has no selective checkpointing
    from torch.utils import checkpoint as cp

    block, again = (
        Block(trained(4, **stages).float(), trained(4, **stages).float())
        for _ in range(2)
    )
    keep = [torch.ops.aten.convolution.default]

    def contexts():
        return cp.create_selective_checkpoint_contexts(keep)

    x = images(3, 4, *size).float()
    want = block.step(x)
    x = x.clone().requires_grad_()
    y = cp.checkpoint(again, x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    ours = [y.detach(), x.grad, *(p.grad for p in again.parameters())]
    largest = max(value.abs().max().item() for value in want)
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-6 * largest)
