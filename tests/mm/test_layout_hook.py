"""Weights of another norm stop a run, in either direction."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models import ResNet
from mmengine.model import BaseModule
from mmengine.registry import HOOKS

from ubn_mmdet.mm.start_hooks import CheckpointLayoutError

BN = {'type': 'BN'}
UBN = {'type': 'UBN'}
NO_GATE = {'type': 'UBN', 'condensation_threshold': None}
STARTS_SMALL = {
    'type': 'UBN',
    'centering': False,
    'scaling': None,
    'kernel_size': 1,
    'condensation_threshold': None,
}


def backbone(norm_cfg, init_cfg=None):
    with torch.device('meta'):
        return ResNet(18, norm_cfg=norm_cfg, init_cfg=init_cfg)


@pytest.fixture
def start(tmp_path):
    """Starts a detector from the classifier of another norm."""

    def start(source, norm_cfg, iteration=0, prefix='backbone.'):
        path = tmp_path / 'epoch_100.pth'
        state = backbone(source).state_dict()
        state = {f'backbone.{k}': torch.zeros(v.shape) for k, v in state.items()}
        torch.save({'state_dict': state | {'head.fc.bias': torch.zeros(2)}}, path)
        detector = BaseModule()
        init_cfg = {'type': 'Pretrained', 'checkpoint': str(path), 'prefix': prefix}
        detector.backbone = backbone(norm_cfg, init_cfg)
        hook = HOOKS.build({'type': 'CheckpointLayoutHook'})
        hook.before_train(SimpleNamespace(model=detector, iter=iteration))

    return start


@pytest.mark.parametrize('norm', [BN, UBN, NO_GATE])
@pytest.mark.parametrize('prefix', ['backbone.', 'backbone'])
def test_weights_of_the_same_norm_pass(start, norm, prefix):
    start(norm, norm, prefix=prefix)


def test_norms_of_the_same_keys_cannot_be_told_apart(start):
    start(STARTS_SMALL, BN)


@pytest.mark.parametrize(
    ('source', 'norm', 'why'),
    [
        (BN, UBN, 'lacks centering_weight, condensation, '),
        (UBN, BN, 'adds centering_weight, condensation, '),
        (NO_GATE, UBN, 'lacks condensation. '),
        (UBN, NO_GATE, 'adds condensation. '),
    ],
)
def test_weights_of_another_norm_stop_the_run(start, source, norm, why):
    with pytest.raises(CheckpointLayoutError) as error:
        start(source, norm)
    message = str(error.value)
    assert f'20 norm layer(s) of model.backbone, as for bn1, where it {why}' in message
    assert (
        'epoch_100.pth' in message and 'model.backbone.init_cfg.checkpoint' in message
    )


def test_weights_of_a_distributed_training_are_read_as_they_are_loaded(tmp_path):
    state = {
        f'module.{k}': torch.zeros(v.shape)
        for k, v in backbone(UBN).state_dict().items()
    }
    torch.save({'state_dict': state}, path := str(tmp_path / 'epoch_100.pth'))
    init_cfg = {'type': 'Pretrained', 'checkpoint': path}
    hook = HOOKS.build({'type': 'CheckpointLayoutHook'})
    hook.before_train(SimpleNamespace(model=backbone(UBN, init_cfg), iter=0))
    with pytest.raises(CheckpointLayoutError, match='20 norm layer'):
        hook.before_train(SimpleNamespace(model=backbone(BN, init_cfg), iter=0))


def test_a_resumed_run_has_its_own_weights(start):
    start(BN, UBN, iteration=1)


def test_a_model_without_weights_to_load_passes():
    hook = HOOKS.build({'type': 'CheckpointLayoutHook'})
    hook.before_train(SimpleNamespace(model=backbone(UBN), iter=0))
