"""A detector whose parameters are sharded over ranks trains as under DDP."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.detectors import config, detector
from mmdet.testing import demo_mm_inputs
from mmengine.model import MMDistributedDataParallel
from mmengine.model.wrappers import MMFullyShardedDataParallel
from mmengine.optim import build_optim_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from ubn_mmdet import MBN, UBN
from ubn_mmdet.mm.hooks import DoubleForwardHook
from ubn_mmdet.mm.start_hooks import FeatureScaleHook

SGD = {
    'type': 'OptimWrapper',
    'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9, 'weight_decay': 1e-4},
}


def ddp(model):
    """Wrapped, and what is in the checkpoint of it."""
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    return wrapped, wrapped.module.state_dict


def fsdp1(model):
    """In several units, some of which begin amid the norm layers of a stage."""
    policy = partial(size_based_auto_wrap_policy, min_num_params=20_000)
    wrapped = MMFullyShardedDataParallel(
        model, auto_wrap_policy=policy, device_id=torch.device('cpu')
    )

    def state():
        with FullyShardedDataParallel.summon_full_params(wrapped):
            return {k: v.clone() for k, v in wrapped.module.state_dict().items()}

    return wrapped, state


def fsdp2(model):
    """In three units."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh('cpu', (2,))
    for module in (model.backbone.layer2, model.backbone, model):
        fully_shard(module, mesh=mesh)

    def state():
        return {
            name: value.full_tensor() if hasattr(value, 'full_tensor') else value
            for name, value in model.state_dict().items()
        }

    return model, state


def train(task):
    """One rank's part: two steps on images of its own; the whole state after them."""
    wrap, seed = task
    model = detector(config('retinanet')).train()
    wrapped, state = wrap(model)
    optim_wrapper = build_optim_wrapper(wrapped, SGD)
    for step in range(2):
        batch = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_classes=4)
        generator = torch.Generator().manual_seed(10 * step + seed)
        batch['inputs'] = [
            torch.randint(255, (3, 64, 64), generator=generator) for _ in range(2)
        ]
        wrapped.train_step(batch, optim_wrapper)
    return {name: value.detach().clone() for name, value in state().items()}


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, 'fully_shard'),
    reason='this PyTorch has no FSDP2, and its gloo may not shard',
)
@pytest.mark.parametrize('wrap', [fsdp1, fsdp2])
def test_sharded_ranks_train_as_under_ddp(two_ranks, wrap):
    expected, _ = two_ranks.run(train, [(ddp, 0), (ddp, 1)])
    first, second = two_ranks.run(train, [(wrap, 0), (wrap, 1)])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    start = detector(config('retinanet')).state_dict()
    for name in ('weight', 'spatial_weight', 'running_mean', 'condensation'):
        key = f'backbone.layer2.0.bn1.{name}'
        assert not torch.allclose(first[key], start[key], rtol=1e-4, atol=1e-5), key


def loaded(_):
    """One rank's part: BatchNorm's weights in a sharded UBN; what both compute."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    before = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    torch.nn.init.normal_(before[0].weight)
    after = torch.nn.Sequential(UBN(4))
    fully_shard(after, mesh=init_device_mesh('cpu', (2,)))
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(after, copy.deepcopy(before.state_dict()), options=options)
    return after.eval()(x).detach(), before.eval()(x).detach()


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, 'fully_shard'),
    reason='this PyTorch has no FSDP2, and its gloo may not shard',
)
def test_batchnorm_weights_load_into_a_sharded_model(two_ranks):
    for found, expected in two_ranks.run(loaded, [None, None]):
        torch.testing.assert_close(found, expected)


def refused(_):
    """One rank's part: what hooks that call a part of the model say to FSDP."""
    said = []
    runner = SimpleNamespace(model=fsdp1(torch.nn.Sequential(MBN(4)))[0], iter=0)
    for call in (
        lambda: DoubleForwardHook().before_train(runner),
        lambda: FeatureScaleHook().before_train_iter(runner, 0, {}),
    ):
        with pytest.raises(
            ValueError, match='FSDP has sharded its parameters'
        ) as error:
            call()
        said.append(str(error.value).partition(' ')[0])
    return said


@pytest.mark.slow
def test_hooks_that_call_a_part_of_the_model_refuse_fsdp(two_ranks):
    names = ['DoubleForwardHook', 'FeatureScaleHook']
    assert two_ranks.run(refused, [None, None]) == [names, names]
