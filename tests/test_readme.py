"""What the README shows runs: the snippets for other libraries, and its config."""

import re
from importlib.util import find_spec

import pytest
from helpers.commands import ROOT, run
from helpers.pretraining import FOLDER, PYTHONPATH

README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
FINE_TUNING, FROM_SCRATCH, SNIPPETS = BLOCKS

TRAIN = """
import torch, ubn_mmdet
from torch.nn.modules.batchnorm import _BatchNorm

norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
assert norms and {type(m) for m in norms} == {ubn_mmdet.UBN}
y = model.train()(torch.randn(2, 3, 64, 64))
sum(map(torch.sum, y if isinstance(y, tuple) else [y])).backward()
assert norms[0].spatial_weight.grad.any()
print(len(norms), 'norms')
"""
BUILD = """
import sys
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from ubn_mmdet import BNET, UBN

register_all_modules()
cfg = Config.fromfile('mine.py')
loads = cfg.model.backbone.init_cfg is not None
cfg.model.backbone.init_cfg = None  # no download
model = MODELS.build(cfg.model)
layers = [m for m in model.modules() if isinstance(m, (UBN, BNET))]
starts_as_batchnorm = not layers[0].spatial_weight.any() and bool(layers[0].weight.all())
constructor = cfg.optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
build_optim_wrapper(model, cfg.optim_wrapper)
print(len(layers), model.backbone.frozen_stages, loads, starts_as_batchnorm, constructor)
"""


@pytest.mark.slow
@pytest.mark.parametrize('library', ['timm', 'torchvision', 'mmpretrain'])
def test_a_model_of_another_library_learns_with_ubn(library, tmp_path):
    if find_spec(library) is None and not (FOLDER / library).is_dir():
        pytest.skip(f'{library} is not installed (.ci/pretraining.txt)')
    imports, _, lines = SNIPPETS.partition('\n\n')
    assert library in imports
    [line] = [line for line in lines.splitlines() if f'({library}.' in line]
    code = f'import {library}\n{imports.splitlines()[1]}\n{line}\n{TRAIN}'
    said = run('-W', 'ignore', '-c', code, cwd=tmp_path, path=PYTHONPATH)
    assert said.endswith('20 norms\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'shown'),
    [
        (FINE_TUNING, 'True True UBNOptimWrapperConstructor'),
        (FINE_TUNING + FROM_SCRATCH, 'False False UBNOptimWrapperConstructor'),
    ],
    ids=['fine-tuning', 'from scratch'],
)
def test_the_configs_give_a_detector(config, shown, tmp_path):
    (tmp_path / 'mine.py').write_text(config)
    said = run('-W', 'ignore', '-c', BUILD, cwd=tmp_path)
    assert said.splitlines()[-1] == f'53 -1 {shown}'


def test_it_is_short():
    assert len(README.splitlines()) <= 120
