"""Every run reports its UBN layers at the first step, and stops if they are gone."""

from types import SimpleNamespace

import pytest
import torch
import torch.utils.checkpoint as cp
from helpers.stock import dumps_no_class
from mmcv.cnn import ConvModule
from mmdet.models import EfficientNet, ResNet
from mmdet.models.roi_heads.shared_heads import ResLayer
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODEL_WRAPPERS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from ubn_mmdet import RBN, UBN
from ubn_mmdet.layers.replacers import UBNReplacedError
from ubn_mmdet.mm import hooks
from ubn_mmdet.mm.hooks import UBNGuardHook, report, unheeded_norm_eval, unmerged
from ubn_mmdet.mm.members import asks_for_ours


class TrainsOnNoise(nn.Module):
    """A model of one component, ``backbone``, that needs no data."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)

    def train_step(self, data, optim_wrapper):
        loss = self(torch.randn(2, 3, 16, 16)).sum()
        optim_wrapper.update_params(loss)
        return {'loss': loss}


class Towers(TrainsOnNoise):
    """Two levels through a shared norm, and one through a norm of its own."""

    def __init__(self, norm_cfg):
        super().__init__(ConvModule(3, 4, 3, norm_cfg=norm_cfg))
        self.shared = ConvModule(4, 4, 3, norm_cfg=norm_cfg)

    def forward(self, x):
        x = self.backbone(x)
        return self.shared(x).sum() + self.shared(x[..., ::2]).sum()


class InParts(Towers):
    """Sees its batch in two parts, as a semi-supervised detector does, with a teacher."""

    def __init__(self, norm_cfg):
        super().__init__(norm_cfg)
        self.teacher = Towers(norm_cfg)

    def forward(self, x):
        self.teacher.eval()(x)
        return sum(self.shared(self.backbone(part)).sum() for part in x.split(1))


class Checkpointed(TrainsOnNoise):
    """Its forward is repeated in the backward."""

    def forward(self, x):
        return cp.checkpoint(self.backbone, x, use_reentrant=False)


@MODEL_WRAPPERS.register_module()
class Wrapper(nn.Module):
    """As the distributed ones are for the hook."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def train_step(self, data, optim_wrapper):
        return self.module.train_step(data, optim_wrapper)


class NormEvalForBatchNormAlone(nn.Sequential):
    """As mmdet's EfficientNet and ResLayer have it."""

    def __init__(self, norm_eval):
        super().__init__(ConvModule(3, 4, 3, norm_cfg={'type': 'UBN'}), UBN(4))
        self.norm_eval = norm_eval

    def train(self, mode=True):
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


class Nothing(torch.utils.data.Dataset):
    """Two empty samples."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return 0


@pytest.fixture(autouse=True)
def _registered():
    if 'Nothing' not in DATASETS.module_dict:
        DATASETS.register_module(module=Nothing)


@pytest.fixture(params=[Runner, FlexibleRunner], ids=['Runner', 'FlexibleRunner'])
def train(request, tmp_path):
    """Trains a model by each of MMEngine's runners."""

    def train(net, norm='UBN', **settings):
        runner = request.param(
            net,
            work_dir=str(tmp_path),
            train_dataloader={
                'dataset': {'type': 'Nothing'},
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'batch_size': 1,
            },
            train_cfg={'by_epoch': True, 'max_epochs': 2},
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
            cfg=Config({'model': {'neck': [{'norm_cfg': {'type': norm}}]}}),
            experiment_name=tmp_path.name,
            **settings,
        )
        runner.train()
        return runner

    return train


def test_a_run_reports_its_layers_once_and_warns_of_shared_norms(train, capfd):
    run = train(Towers({'type': 'UBN'}))
    said = ''.join(capfd.readouterr())
    counts = 'backbone: 1 (1 in training mode), shared: 1 (1 in training mode)'
    assert said.count(f'UBN layers: {counts}') == 1
    warning = (
        '1 norm layer(s) of ubn_mmdet were called several times in one step, as '
        'shared.bn, 2'
    )
    assert said.count(warning) == 1
    assert 'RetinaSepBNHead' in said
    assert not any(m._forward_pre_hooks for m in run.model.modules())


@pytest.mark.parametrize(
    'make',
    [
        lambda norm_cfg: InParts(norm_cfg),
        lambda norm_cfg: Checkpointed(ConvModule(3, 4, 3, norm_cfg=norm_cfg)),
    ],
    ids=['in parts', 'checkpointed'],
)
def test_a_forward_of_the_whole_model_is_no_second_call(train, capfd, make):
    train(make({'type': 'UBN'}))
    assert 'called several times' not in ''.join(capfd.readouterr())


def test_components_are_named_as_without_the_wrapper(train, capfd):
    train(Wrapper(TrainsOnNoise(UBN(3))))
    assert 'UBN layers: backbone: 1' in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    'norm',
    ['UBN', 'mmdet.UBN', 'mmengine.UBN', pytest.param(UBN, marks=dumps_no_class)],
)
def test_a_run_whose_layers_are_gone_stops(train, norm):
    with pytest.raises(UBNReplacedError, match='the model has none'):
        train(Towers({'type': 'BN'}), norm=norm)


def test_a_run_without_ubn_hears_nothing(train, capfd):
    train(Towers({'type': 'BN'}), norm='BN')
    assert 'UBN' not in ''.join(capfd.readouterr()).replace('UBNGuardHook', '')


def test_a_run_that_asks_for_the_hook_has_one_of_it(train):
    run = train(Towers({'type': 'UBN'}), custom_hooks=[{'type': 'UBNGuardHook'}])
    assert sum(isinstance(hook, UBNGuardHook) for hook in run.hooks) == 1


@pytest.mark.parametrize('norm_eval', [True, False])
def test_a_norm_eval_that_reaches_no_layer_is_warned_of(train, capfd, norm_eval):
    train(TrainsOnNoise(NormEvalForBatchNormAlone(norm_eval)))
    said = ''.join(capfd.readouterr())
    assert said.count('norm_eval=True does not reach') == norm_eval
    assert ('backbone (NormEvalForBatchNormAlone): 2' in said) == norm_eval


@pytest.mark.parametrize('ranks', [1, 2])
def test_statistics_of_each_rank_are_warned_of(train, capfd, monkeypatch, ranks):
    monkeypatch.setattr(hooks, 'get_world_size', lambda: ranks)
    train(TrainsOnNoise(nn.Sequential(UBN(3, sync=False), UBN(3))))
    said = ''.join(capfd.readouterr())
    warning = '1 UBN layer(s) do not merge their statistics over all 2 ranks'
    assert said.count(warning) == (ranks == 2)


def test_layers_that_do_not_merge_over_all_ranks():
    layers = {
        'all': UBN(2),
        'nobody': UBN(2, sync=False),
        'frozen': UBN(2, sync=False).eval(),
        'pairs': UBN(2, sync_group_size=2),
    }
    assert unmerged(layers.values(), 1) == []
    assert unmerged(layers.values(), 2) == [layers['nobody']]
    assert unmerged(layers.values(), 4) == [layers['nobody'], layers['pairs']]


def test_which_components_of_mmdet_freeze_nothing():
    """Where one of these is mended, its row in the documentation wants a change."""
    norm_cfg = {'type': 'UBN', 'requires_grad': True}
    efficientnet = EfficientNet(arch='b0', norm_cfg=norm_cfg, norm_eval=True)
    res_layer = ResLayer(50, norm_cfg=norm_cfg, norm_eval=True)
    resnet = ResNet(18, norm_cfg=norm_cfg, norm_eval=True)
    model = nn.ModuleDict(
        {
            'backbone': efficientnet,
            'roi_head': nn.ModuleDict({'shared_head': res_layer}),
            'other': resnet,
        }
    ).train()
    assert unheeded_norm_eval(model) == [
        'backbone (EfficientNet): 49',
        'roi_head.shared_head (ResLayer): 10',
    ]
    assert unheeded_norm_eval(efficientnet) == ['model (EfficientNet): 49']
    assert unheeded_norm_eval(model.eval()) == []


@pytest.mark.parametrize(
    ('config', 'asks'),
    [
        ({'backbone': {'norm_cfg': {'type': 'UBN'}}}, True),
        ([{'norm_cfg': ({'type': 'mmdet.UBN'},)}], True),
        ({'norm_cfg': {'type': UBN}}, True),
        ({'norm_cfg': {'type': type('Child', (UBN,), {})}}, True),
        ({'norm_cfg': {'type': 'ubn_mmdet.layers.ubn.UBN'}}, True),
        ({'norm_cfg': {'type': 'BN'}, 'name': 'UBN'}, False),
        ({'norm_cfg': {'type': nn.BatchNorm2d}}, False),
        ({'type': 'mmdet.ResNet', 'depth': 50, 'norm_cfg': None}, False),
        ('UBN', False),
    ],
)
def test_configs_that_ask_for_our_layers(config, asks):
    assert asks_for_ours(config) == asks
    assert asks_for_ours(Config({'model': config}).model) == asks


def test_the_report_names_the_kinds():
    layers = {'backbone.bn1': RBN(2), 'backbone.bn2': UBN(2), 'backbone.bn3': RBN(2)}
    want = 'RBN and UBN layers: backbone: 3 (3 in training mode)'
    assert report(layers) == want


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


def test_a_model_that_is_compiled_gets_no_hooks():
    model = nn.Sequential(UBN(3))
    cfg = Config({'model': {}, 'compile': True})
    runner = SimpleNamespace(
        model=model, cfg=cfg, logger=MMLogger.get_current_instance()
    )
    UBNGuardHook().before_train_iter(runner)
    assert not model[0]._forward_pre_hooks
