"""``docs/extending.md`` shows the package as it is, and its own code runs."""

import re

import pytest
from helpers.commands import ROOT, run

BLOCKS = re.compile(r'^```python\n# (\S+\.py)\n(.*?)^```', re.MULTILINE | re.DOTALL)
SHOWN = dict(BLOCKS.findall((ROOT / 'docs/extending.md').read_text()))
OWN = 'my_norms.py'

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


@pytest.mark.parametrize('path', [path for path in SHOWN if path != OWN])
def test_what_is_shown_is_in_the_package(path):
    assert SHOWN[path] in (ROOT / path).read_text()


def test_the_whole_norm_is_shown():
    assert {path.split('/')[0] for path in SHOWN} == {
        'ubn_mmdet',
        'configs',
        'tests',
        OWN,
    }
    for path in SHOWN:
        if path.startswith('ubn_mmdet/'):
            assert SHOWN[path] == (ROOT / path).read_text()


@pytest.mark.slow
def test_a_norm_of_ones_own_is_registered_and_learns(tmp_path):
    (tmp_path / OWN).write_text(SHOWN[OWN])
    assert run('-W', 'ignore', '-c', USE, cwd=tmp_path).endswith('CentredJSNorm\n')
