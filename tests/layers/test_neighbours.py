"""Layers among in-place neighbours, as detectors have them."""

import itertools

import pytest
import torch
from helpers.layers import STAGES, images, trained
from torch import nn

DTYPES = torch.float32, torch.bfloat16, torch.float16
FORMATS = torch.contiguous_format, torch.channels_last


class Block(nn.Module):
    """A residual block: a norm before an in-place ReLU, one before an in-place sum."""

    def __init__(self, stages: dict) -> None:
        super().__init__()
        self.norm1 = trained(4, **stages)
        self.norm2 = trained(4, **stages)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.norm1(x))
        out = self.norm2(out)
        out += x
        return self.relu(out)


class OutOfPlace(Block):
    """The same without a change in place."""

    def forward(self, x):
        return (self.norm2(self.norm1(x).relu()) + x).relu()


def step(block: Block, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    y.sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in block.parameters())]


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize(
    ('dtype', 'memory_format'), itertools.product(DTYPES, FORMATS), ids=str
)
def test_in_place_neighbours_change_nothing(stages, mode, dtype, memory_format):
    x = images(3, 4, 6, 5).to(dtype, memory_format=memory_format)
    results = []
    for kind in (Block, OutOfPlace):
        block = kind(stages).to(torch.float32).train(mode == 'train')
        results.append(step(block, x))
    for ours, want in zip(*results, strict=True):
        torch.testing.assert_close(ours, want, rtol=0, atol=0)


@pytest.mark.parametrize('stages', STAGES.values(), ids=STAGES)
def test_selective_checkpointing_keeps_convolutions(stages):
    from torch.utils import checkpoint as cp

    block, again = Block(stages), Block(stages)
    keep = [torch.ops.aten.convolution.default]

    def contexts():
        return cp.create_selective_checkpoint_contexts(keep)

    x = images(3, 4, 6, 5)
    want = step(block, x)
    x = x.clone().requires_grad_()
    y = cp.checkpoint(again, x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    ours = [y.detach(), x.grad, *(p.grad for p in again.parameters())]
    torch.testing.assert_close(ours, want, rtol=0, atol=0)
