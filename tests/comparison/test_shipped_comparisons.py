"""The comparisons that ship resolve, and their variants change what they name."""

import pytest
from helpers.commands import ROOT
from helpers.optim import groups_of
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.optim import build_optim_wrapper

from ubn_mmdet.comparison.spec import Comparison
from ubn_mmdet.comparison.training.configs import preset, resolve
from ubn_mmdet.data.coco_folder import CocoFolder
from ubn_mmdet.data.shapes import make_shapes

OF_DETECTORS = sorted(
    path.name
    for path in (ROOT / 'comparisons').glob('*.py')
    if not path.stem.endswith('pretraining')  # tests/mm/test_pretraining.py
)
VECTORS = {'centering_weight', 'scaling_weight', 'scaling_bias'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(path, num_train=1, num_val=1, image_size=64)
    return CocoFolder.open(path)


@pytest.mark.parametrize('name', OF_DETECTORS)
def test_every_norm_of_a_comparison_resolves_to_what_it_names(name, folder):
    register_all_modules()
    comparison = Comparison.open(ROOT / 'comparisons' / name)
    for run in {run.norm.name: run for run in comparison.runs()}.values():
        cfg = resolve(comparison, run, folder)
        norm_cfg = preset(run.norm.preset)
        for option, value in run.norm.options.items():
            if option.startswith('model.backbone.norm_cfg.'):
                norm_cfg[option.rpartition('.')[-1]] = value
        assert cfg.model.backbone.norm_cfg.to_dict() == norm_cfg
        assert cfg.randomness.seed == run.seed
        assert cfg.train_cfg.max_epochs == comparison.epochs


def trained(comparison, norm, folder):
    """{kind of parameter: {(lr, decay)}} of the detector of a norm."""
    register_all_modules()
    comparison = Comparison.open(ROOT / f'comparisons/{comparison}.py')
    run = next(comparison.runs(only=[norm]))
    cfg = resolve(comparison, run, folder)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    norms = {
        name
        for name, layer in model.named_modules()
        if type(layer).__name__ == cfg.model.backbone.norm_cfg.type
    }
    found = {}
    for name, (lr, decay) in groups_of(model, wrapper).items():
        layer, _, kind = name.rpartition('.')
        setting = round(lr, 6), round(decay, 7)
        found.setdefault(kind if layer in norms else 'elsewhere', set()).add(setting)
    return found


def test_rates_and_decays_are_those_of_the_protocol(folder):
    plain = trained('nuclei', 'BNET', folder)
    assert plain.pop('elsewhere') == plain.pop('spatial_weight') == {(0.02, 1e-4)}
    assert set(plain) == {'weight', 'bias'}
    assert all(found == {(0.02, 0)} for found in plain.values())
    authors = trained('nuclei', 'UBN', folder)
    assert authors['spatial_weight'] == {(0.010689, 1.871e-4)}
    assert authors['weight'] == {(0.010689, 0)}
    assert all(authors[name] == {(0.02, 0)} for name in VECTORS)
    fast = trained('nuclei-from-bn', 'UBN-from-BN-fast', folder)
    assert all(fast[name] == {(0.1, 0)} for name in VECTORS)
    assert fast['spatial_weight'] == {(0.1, 1e-4)} and fast['weight'] == {(0.01, 0)}
    halved = trained('nuclei-tuning', 'BNET-lr-0.0025', folder)
    assert halved['elsewhere'] == {(0.0025, 1e-4)}


def test_a_norm_keeps_its_rate_in_all_comparisons_of_a_set(folder):
    rates = {
        'nuclei': {'BN': 0.01, 'UBN': 0.02, 'BNET': 0.02},
        'nuclei-everywhere': {'BN': 0.01, 'UBN': 0.02, 'BNET': 0.02, 'GN': 0.01},
        'nuclei-family': {
            'GN': 0.01,
            'RBN': 0.01,
            'BN-depthwise': 0.02,
            'UBN-gate-reversed': 0.02,
        },
        'nuclei-24-epochs': {'BN': 0.04, 'UBN': 0.08, 'BNET': 0.08},
        'nuclei-from-bn': {'BN': 0.01, 'UBN-from-BN': 0.01},
        'nuclei-pretrained': {'BN': 0.01, 'UBN': 0.02, 'BNET': 0.02},
        'bccd': {'BN': 0.04, 'UBN': 0.04, 'BNET': 0.08},
    }
    for name, norms in rates.items():
        comparison = Comparison.open(ROOT / f'comparisons/{name}.py')
        runs = {run.norm.name: run for run in comparison.runs(only=list(norms))}
        found = {
            norm: resolve(comparison, run, folder).optim_wrapper.optimizer.lr
            for norm, run in runs.items()
        }
        assert found == norms


def test_each_seed_of_the_protocol_starts_from_a_pre_training_of_its_own(folder):
    comparison = Comparison.open(ROOT / 'comparisons/coco-protocol.py')
    assert (comparison.processes, comparison.batch_size) == (8, 2)
    for run in comparison.runs(only=['UBN', 'BN-small']):
        backbone = resolve(comparison, run, folder).model.backbone
        path = f'work_dirs/seed{run.seed}/resnet50_{run.norm.preset}/epoch_100.pth'
        assert backbone.init_cfg.checkpoint == path
