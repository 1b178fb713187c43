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


def trained(name, folder):
    """The detector of a norm in nuclei.py, and {kind of parameter: {(lr, decay)}}."""
    register_all_modules()
    comparison = Comparison.open(ROOT / 'comparisons/nuclei.py')
    [run] = comparison.runs(only=[name], seeds=[0])
    cfg = resolve(comparison, run, folder)
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
        setting = round(lr, 6), decay
        found.setdefault(kind if layer in norms else 'elsewhere', set()).add(setting)
    return model, found


def test_variants_of_ubns_training_reach_its_parameters(folder):
    usual = {(0.02, 1e-4)}
    model, plain = trained('UBN', folder)
    assert VECTORS < set(plain) and all(found == usual for found in plain.values())
    assert model.backbone.bn1.momentum == 0.1

    _, slow = trained('UBN-lr-0.1', folder)
    assert {k for k, v in slow.items() if v == {(0.002, 1e-4)}} == VECTORS
    assert {k for k, v in slow.items() if v == usual} == set(plain) - VECTORS

    _, no_decay = trained('UBN-no-decay', folder)
    assert no_decay.pop('elsewhere') == usual
    assert set(no_decay) == set(plain) - {'elsewhere'}
    assert all(found == {(0.02, 0)} for found in no_decay.values())

    model, same = trained('UBN-momentum-0.03', folder)
    assert same == plain and model.backbone.bn1.momentum == 0.03
