"""The norm that ``CONTRIBUTING.md`` writes outside of the package works there."""

import re

import pytest
from helpers.commands import ROOT, run

BLOCK = re.compile(r'^```python\n# (?P<name>\S+\.py)\n(?P<code>.*?)^```', re.M | re.S)

USE = """
import torch
from mmcv.cnn import build_norm_layer
import my_norms
from ubn_mmdet import convert_batchnorm

_, layer = build_norm_layer({'type': 'CentredJSNorm', 'requires_grad': True}, 4)
norm = torch.nn.BatchNorm2d(4)
layer.load_state_dict(norm.state_dict(), strict=True)
layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
assert layer.centering_weight.grad.any() and layer.running_mean.any()
print(type(convert_batchnorm(norm, 'CentredJSNorm')).__name__)
"""


@pytest.mark.slow
def test_a_norm_of_ones_own_is_registered_and_learns(tmp_path):
    (shown,) = BLOCK.finditer((ROOT / 'CONTRIBUTING.md').read_text())
    (tmp_path / shown['name']).write_text(shown['code'])
    assert run('-W', 'ignore', '-c', USE, cwd=tmp_path).endswith('CentredJSNorm\n')
