"""MBN's second forward, in the runs of the toolbox."""

import copy
from contextlib import contextmanager

import pytest
import torch
from helpers.layers import images
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ubn_mmdet import MBN

pytestmark = pytest.mark.filterwarnings('error:MBN has met two batches:UserWarning')
BATCHES = [images(2, 3, 6, 5, alike=False, seed=i).float() + i for i in range(3)]


class Model(BaseModel):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.norm = norm
        self.weights = []  # of each forward
        self.autocast = []  # whether it ran in it

    def forward(self, inputs, mode):
        assert mode == 'loss'
        self.weights.append(self.conv.weight.detach().clone())
        self.autocast.append(torch.is_autocast_enabled('cpu'))
        return {'loss': self.norm(self.conv(inputs)).exp().mean()}


class Inputs(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return len(BATCHES)

    def __getitem__(self, index):
        x = BATCHES[index]
        return {'inputs': x} if self.kind is dict else [x]


@OPTIM_WRAPPERS.register_module()
class InAutocast(OptimWrapper):
    """As AmpOptimWrapper, which needs a GPU."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def train(folder, model, kind=dict, **optim_wrapper):
    """Train for one epoch; the state that its checkpoint has."""
    loader = DataLoader(Inputs(kind), collate_fn=lambda batch: batch[0])
    runner = Runner(
        model,
        str(folder),
        train_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}} | optim_wrapper,
        custom_hooks=[{'type': 'DoubleForwardHook'}],
        experiment_name=folder.name,
    )
    runner.train()
    return torch.load(folder / 'epoch_1.pth', weights_only=False)['state_dict']


@pytest.mark.parametrize('kind', [dict, list])
def test_the_memory_is_of_the_weights_after_each_update(tmp_path, kind):
    model = Model(MBN(4, memory_size=3))
    saved = train(tmp_path, model, kind)
    assert len(model.weights) == 2 * len(BATCHES)
    for i, x in enumerate(BATCHES):
        first, second = model.weights[2 * i : 2 * i + 2]
        assert not torch.equal(first, second)
        conv = copy.deepcopy(model.conv)
        conv.weight.data = second
        mean = conv(x).mean((0, 2, 3)).detach()
        torch.testing.assert_close(saved['norm.mean_memory'][:, i], mean)
    assert model.norm.batches_memorized == model.norm.num_batches_tracked == 3
    torch.testing.assert_close(saved, dict(model.state_dict()), rtol=0, atol=0)


def test_of_accumulated_batches_the_last_is_repeated(tmp_path):
    model = Model(MBN(4))
    with pytest.warns(UserWarning, match='MBN has met two batches'):
        train(tmp_path, model, accumulative_counts=3)
    assert len(model.weights) == len(BATCHES) + 1


def test_the_second_forward_has_the_precision_of_the_first(tmp_path):
    model = Model(MBN(4))
    train(tmp_path, model, type='InAutocast')
    assert model.autocast == [True] * 6


def test_a_model_without_mbn_is_refused(tmp_path):
    with pytest.raises(ValueError, match='DoubleForwardHook .* the model has none'):
        train(tmp_path, Model(nn.BatchNorm2d(4)))
