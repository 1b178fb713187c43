"""Tracing, and the exports by it and without it: a graph holds for all sizes."""

import pytest
import torch
from helpers.layers import STAGES, trained
from torch import nn


def network(stages: dict) -> nn.Module:
    torch.manual_seed(0)
    norm = trained(8, **stages).float()
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(inplace=True)
    ).eval()


@pytest.mark.parametrize(
    ('name', 'opset'),
    [('all', 11), *((name, 17) for name in ('all', 'k=1', 'k=5', 'no affine'))],
)
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')
def test_onnx_by_tracing(name, opset, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    net = network(STAGES[name])
    torch.onnx.export(
        net,
        (torch.randn(2, 3, 16, 20),),
        tmp_path / 'net.onnx',
        dynamo=False,
        opset_version=opset,
        input_names=['x'],
        dynamic_axes={'x': {0: 'n', 2: 'h', 3: 'w'}},
    )
    x = torch.randn(3, 3, 24, 12)
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    [y] = session.run(None, {'x': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-4, atol=1e-4)


# The batch, height and width of an input may be any.
ANY_SIZE = ({dim: torch.export.Dim(f'size_{dim}') for dim in (0, 2, 3)},)


@pytest.mark.parametrize('name', ['all', 'k=1', 'no affine', 'all off'])
def test_export(name):
    net = network(STAGES[name])
    program = torch.export.export(
        net, (torch.randn(2, 3, 16, 20),), dynamic_shapes=ANY_SIZE
    )
    x = torch.randn(3, 3, 24, 12)
    torch.testing.assert_close(program.module()(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['all', 'k=1', 'kernel alone'])
def test_onnx_without_tracing(name, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    net = network(STAGES[name])
    torch.onnx.export(
        net,
        (torch.randn(2, 3, 16, 20),),
        tmp_path / 'net.onnx',
        dynamo=True,
        input_names=['x'],
        dynamic_shapes=ANY_SIZE,
    )
    x = torch.randn(3, 3, 24, 12)
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    [y] = session.run(None, {'x': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-4, atol=1e-4)
