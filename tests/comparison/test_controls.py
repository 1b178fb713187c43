"""The controls are what they say."""

import torch
import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import nn

from ubn_mmdet.comparison.controls import DepthwiseBN, ScaledFPN


def test_a_batch_norm_and_a_depthwise_convolution():
    torch.manual_seed(0)
    norm = DepthwiseBN(256).double()
    assert 0 < norm.depthwise_kernel.std() < 0.03 and (norm.weight == 1).all()
    plain = nn.BatchNorm2d(256).double()
    x = torch.randn(2, 256, 5, 4, dtype=torch.float64)
    expected = F.conv2d(plain(x), norm.depthwise_kernel, padding=1, groups=256)
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm.running_mean, plain.running_mean)


def test_an_fpn_with_smaller_inputs():
    settings = {'in_channels': [3, 4], 'out_channels': 2, 'num_outs': 2}
    scaled = ScaledFPN(scales=[0.5, 0.25], **settings)
    plain = FPN(**settings)
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    for found, expected in zip(scaled(x), plain((x[0] / 2, x[1] / 4)), strict=True):
        torch.testing.assert_close(found, expected)
