"""What would replace UBN without a word is refused; what must leave it alone, does."""

import pytest
import torch
from helpers.commands import ROOT
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmdet.apis import DetInferencer, init_detector
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner import runner as runner_module
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.mm.guard import UBNReplacedError, report

DEMO = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'


def model(norm='UBN'):
    settings = {'norm_cfg': {'type': norm}, 'efficient_conv_bn_eval': False}
    return nn.Sequential(
        ConvModule(3, 4, 3, **settings), ConvModule(4, 4, 3, **settings)
    )


REPLACERS = {
    'torch': nn.SyncBatchNorm.convert_sync_batchnorm,
    'mmengine': convert_sync_batchnorm,
    'mmengine for mmcv': lambda m: convert_sync_batchnorm(m, 'mmcv'),
    'runner': lambda m: runner_module.convert_sync_batchnorm(m, 'torch'),
    'fuse': fuse_conv_bn,
    'efficient': lambda m: turn_on_efficient_conv_bn_eval(m, ['0']),
}


@pytest.mark.parametrize('replace', REPLACERS.values(), ids=REPLACERS)
def test_replacers_refuse_ubn_and_leave_it_whole(replace):
    net = model()
    with pytest.raises(UBNReplacedError, match='UBN layer'):
        replace(net)
    assert sum(isinstance(module, UBN) for module in net.modules()) == 2


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'runner', 'fuse', 'efficient'])
def test_replacers_still_serve_batchnorm(name):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    replaced = REPLACERS[name](net) or net  # the last works in place
    torch.testing.assert_close(replaced.eval()(x), before)


def test_an_efficient_conv_module_refuses_ubn():
    module = ConvModule(3, 4, 3, norm_cfg={'type': 'UBN'}, efficient_conv_bn_eval=True)
    module(torch.randn(2, 3, 8, 8))
    with pytest.raises(UBNReplacedError, match='efficient_conv_bn_eval'):
        module.eval()(torch.randn(2, 3, 8, 8))


def test_revert_sync_batchnorm_leaves_ubn_alone():
    net = model()
    reverted = revert_sync_batchnorm(net)
    assert [type(m.bn) for m in reverted] == [UBN, UBN]


def test_inference_interfaces_leave_ubn_alone():
    register_all_modules()
    cfg = Config.fromfile(DEMO)
    detectors = [
        init_detector(cfg.copy(), device='cpu'),
        DetInferencer(cfg.copy(), device='cpu', show_progress=False).model,
    ]
    for detector in detectors:
        assert sum(isinstance(m, UBN) for m in detector.modules()) == 20


@MODELS.register_module()
class Towers(nn.Module):
    """Two levels through a shared norm, and one through a norm of its own."""

    def __init__(self, norm_cfg):
        super().__init__()
        self.backbone = ConvModule(3, 4, 3, norm_cfg=norm_cfg)
        self.shared = ConvModule(4, 4, 3, norm_cfg=norm_cfg)

    def train_step(self, data, optim_wrapper):
        x = self.backbone(torch.randn(2, 3, 16, 16))
        loss = self.shared(x).sum() + self.shared(x[..., ::2]).sum()
        optim_wrapper.update_params(loss)
        return {'loss': loss}


def runner(tmp_path, net, norm='UBN', **settings):
    return Runner(
        net,
        work_dir=str(tmp_path),
        train_dataloader={
            'dataset': {'type': 'Nothing'},
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 1,
        },
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        cfg=Config({'model': {'norm_cfg': {'type': norm}}}),
        **settings,
    )


class Nothing(torch.utils.data.Dataset):
    """Two empty samples."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return 0


@pytest.fixture(autouse=True)
def _registered():
    from mmengine.registry import DATASETS

    if 'Nothing' not in DATASETS.module_dict:
        DATASETS.register_module(module=Nothing)


def test_a_run_reports_its_layers_and_warns_of_shared_norms(tmp_path, capfd):
    run = runner(tmp_path, Towers({'type': 'UBN'}))
    run.train()
    said = ''.join(capfd.readouterr())
    counts = 'backbone: 1 (1 in training mode), shared: 1 (1 in training mode)'
    assert f'UBN layers: {counts}' in said
    assert (
        '1 UBN layer(s) were called several times in one step, as shared.bn, 2' in said
    )
    assert 'RetinaSepBNHead' in said
    assert not any(m._forward_pre_hooks for m in run.model.modules())


def test_a_run_whose_layers_are_gone_stops(tmp_path):
    with pytest.raises(UBNReplacedError, match='the model has none'):
        runner(tmp_path, Towers({'type': 'BN'})).train()


def test_a_run_without_ubn_hears_nothing(tmp_path, capfd):
    runner(tmp_path, Towers({'type': 'BN'}), norm='BN').train()
    assert 'UBN layers' not in ''.join(capfd.readouterr())


def test_the_report_counts_modes_by_component():
    layers = {
        'backbone.bn1': UBN(2),
        'backbone.bn2': UBN(2).eval(),
        'roi_head.bbox_head.convs.0.bn': UBN(2),
        'roi_head.mask_head.convs.0.bn': UBN(2),
    }
    assert report(layers) == (
        'UBN layers: backbone: 2 (1 in training mode), '
        'roi_head.bbox_head: 1 (1 in training mode), '
        'roi_head.mask_head: 1 (1 in training mode)'
    )
