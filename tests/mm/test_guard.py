"""The guard can be taken back without a trace."""

import pytest
from helpers.commands import run
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.nn.utils import fusion

from ubn_mmdet import UBN
from ubn_mmdet.layers.replacers import UBNReplacedError
from ubn_mmdet.mm import guard

# Everything that the loaded modules and the patched classes hold, before the package is
# imported and after its guard is gone.
PROBE = """
import sys
import mmcv.cnn, mmdet.models, mmengine.runner, torch
import torch.fx.experimental.optimization
import torch._inductor.fx_passes.pre_grad
from torch import nn
from mmengine.analysis.complexity_analysis import FlopAnalyzer
from mmengine.runner import FlexibleRunner, Runner

def world():
    spaces = {name: vars(module) for name, module in sys.modules.items()
              if name.split('.')[0] in ('torch', 'mmengine', 'mmcv', 'mmdet')}
    for kind in (nn.SyncBatchNorm, FlexibleRunner, FlopAnalyzer, Runner):
        spaces[kind.__qualname__] = vars(kind)
    return {name: dict(space) for name, space in spaces.items()}

def differences(before, after):
    return sorted(
        f'{name}:{key}' for name, space in before.items()
        for key in space.keys() | after[name].keys()
        if space.get(key) is not after[name].get(key, sys))

before = world()
import ubn_mmdet
from ubn_mmdet.mm import guard
print('installed', *differences(before, world()))
guard.uninstall()
print('uninstalled', *differences(before, world()))
"""


@pytest.mark.slow
def test_uninstalling_leaves_everything_as_it_was(tmp_path):
    (tmp_path / 'probe.py').write_text(PROBE)
    said = run('-W', 'ignore', 'probe.py', cwd=tmp_path).splitlines()
    [installed] = [line.split()[1:] for line in said if line.startswith('installed')]
    [left] = [line.split()[1:] for line in said if line.startswith('uninstalled')]
    folding = {
        f'{module}:fuse_{kind}_bn_eval'
        for module in (
            'torch.nn.utils',
            'torch.nn.utils.fusion',
            'torch.fx.experimental.optimization',
        )
        for kind in ('conv', 'linear')
    }
    assert set(installed) >= folding | {
        'torch._inductor.fx_passes.pre_grad:fuse_conv_bn_eval',
        'SyncBatchNorm:convert_sync_batchnorm',
        'mmengine.model:convert_sync_batchnorm',
        'mmengine.model.utils:convert_sync_batchnorm',
        'mmengine.runner.runner:convert_sync_batchnorm',
        'mmengine._strategy.distributed:convert_sync_batchnorm',
        'mmcv.cnn.utils.fuse_conv_bn:_fuse_conv_bn',
        'Runner:register_hooks',
        'FlexibleRunner:register_hooks',
        'FlopAnalyzer:__init__',
    }
    assert left == []


@pytest.fixture
def uninstalled():
    guard.uninstall()
    yield
    guard.install()


def converts(net):
    try:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    except UBNReplacedError:
        return False
    return type(converted) is nn.SyncBatchNorm


def test_it_can_be_installed_and_uninstalled_again_and_again(uninstalled):
    names = fusion, Runner, FlexibleRunner, nn.SyncBatchNorm
    before = [dict(vars(owner)) for owner in names]
    for _ in range(2):
        assert converts(UBN(3))
        guard.uninstall()
        guard.install()
        guard.install()
        assert not converts(UBN(3))
        guard.uninstall()
        after = [dict(vars(owner)) for owner in names]
        for old, new in zip(before, after, strict=True):
            assert old.keys() == new.keys()
            assert all(old[name] is new[name] for name in old)
