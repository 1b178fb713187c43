"""What OpenMMLab's last MMEngine cannot do, and OneDL's can."""

import pickle

import pytest
import torch
from helpers.stock import STOCK_MMENGINE
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn


@pytest.mark.xfail(
    STOCK_MMENGINE,
    reason='mmengine 0.10.7 leaves torch.load at weights_only, which PyTorch 2.6 turned on',
    raises=pickle.UnpicklingError,
    strict=True,
)
def test_a_checkpoint_of_a_run_loads(tmp_path, monkeypatch):
    # `make test-openmmlab` sets it, as its users have to.
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)
    net = nn.Conv2d(1, 1, 1)
    history = {'loss': HistoryBuffer([1.0], [1])}
    checkpoint = {'state_dict': net.state_dict(), 'message_hub': history}
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    load_checkpoint(net, str(tmp_path / 'epoch_1.pth'), strict=True)
