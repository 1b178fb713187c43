"""timm's models with their norms converted: BatchNorms with the activation inside."""

import json
from importlib.util import find_spec

import pytest
from helpers.commands import run
from helpers.pretraining import FOLDER, PYTHONPATH

pytestmark = pytest.mark.skipif(
    find_spec('timm') is None and not (FOLDER / 'timm').is_dir(),
    reason='timm is not installed (.ci/pretraining.txt)',
)

# Architectures with BatchNormAct2d.
MODELS = [
    pytest.param('efficientnet_b0', {'drop_path_rate': 0.3}),
    pytest.param('resnetv2_18', {}, marks=pytest.mark.slow),
    pytest.param('densenet121', {}, marks=pytest.mark.slow),
    pytest.param('regnetv_040', {}, marks=pytest.mark.slow),
]

STEP = """
import copy, json, sys
import torch
import timm
from torch.nn.modules.batchnorm import _BatchNorm
from ubn_mmdet import UBN, convert_batchnorm

torch.manual_seed(0)
before = timm.create_model(sys.argv[1], num_classes=4, **json.loads(sys.argv[2])).double()
after = convert_batchnorm(copy.deepcopy(before))
kinds = {type(m) for m in after.modules() if isinstance(m, _BatchNorm)}
assert kinds == {UBN}, kinds
assert after.state_dict().keys() >= before.state_dict().keys()
x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
for training in (True, False):
    results = []
    for model in (before.train(training), after.train(training)):
        torch.manual_seed(1)
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for n, p in model.named_parameters()
                             if n in dict(before.named_parameters()))])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)
for replaced in (timm.layers.convert_sync_batchnorm(copy.deepcopy(after)),
                 timm.layers.convert_splitbn_model(copy.deepcopy(after))):
    assert {type(m) for m in replaced.modules() if isinstance(m, _BatchNorm)} == {UBN}
names = [name for name, _ in before.named_buffers()]
torch.testing.assert_close([after.get_buffer(n) for n in names],
                           [before.get_buffer(n) for n in names])
"""


@pytest.mark.parametrize(('name', 'settings'), MODELS)
def test_a_model_computes_what_it_did(name, settings, tmp_path):
    run('-c', STEP, name, json.dumps(settings), cwd=tmp_path, path=PYTHONPATH)
