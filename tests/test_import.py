"""What ``import ubn_mmdet`` needs and does."""

import pytest
from helpers.commands import run

import ubn_mmdet
from ubn_mmdet.layers import FAMILY


def test_the_layer_needs_pytorch_alone(tmp_path):
    output = run(
        '-W',
        'error',
        '-W',
        'ignore:Failed to initialize NumPy',  # of PyTorch, where there is none
        '-c',
        'import sys\n'
        'for name in ("mmengine", "mmcv", "mmdet", "torchvision", "matplotlib"):\n'
        '    sys.modules[name] = None  # an import of it fails\n'
        'import torch\n'
        'from ubn_mmdet import UBN\n'
        'print(UBN(4)(torch.randn(2, 4, 3, 3)).shape)\n',
        cwd=tmp_path,
    )
    assert output == 'torch.Size([2, 4, 3, 3])\n'


def test_pytorch_alone_does_not_replace_the_layer_either(tmp_path):
    output = run(
        '-W',
        'ignore',
        '-c',
        'import sys\n'
        'sys.modules["mmengine"] = None\n'
        'import torch\n'
        'from torch.nn.utils.fusion import fuse_conv_bn_eval\n'
        'from ubn_mmdet import UBN\n'
        'model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), UBN(4)).eval()\n'
        'model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)\n'
        'print(type(model[1]).__name__)\n'
        'try:\n'
        '    fuse_conv_bn_eval(*model)\n'
        'except RuntimeError as error:\n'
        '    print(error)\n',
        cwd=tmp_path,
    )
    assert output.startswith('UBN\nfuse_conv_bn_eval met 1 UBN layer')


def test_every_member_of_the_family_can_be_imported():
    for member in FAMILY:
        assert getattr(ubn_mmdet, member.__name__) is member
        assert member.__name__ in ubn_mmdet.__all__


@pytest.mark.slow
def test_registering_needs_no_torchvision(tmp_path):
    pytest.importorskip('mmengine')
    output = run(
        '-c',
        'import sys\n'
        'sys.modules["torchvision"] = None\n'
        'import ubn_mmdet, mmengine.registry\n'
        'print(mmengine.registry.MODELS.get("UBN").__name__)\n',
        cwd=tmp_path,
    )
    assert output.endswith('UBN\n')
