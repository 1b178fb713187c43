"""Tests of Triton's kernels that need its interpreter."""

import pytest
import torch

INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason='kernels are not interpreted'
)
