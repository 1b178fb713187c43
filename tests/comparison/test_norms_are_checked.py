"""Before its first run a comparison checks each norm against the baseline."""

import json

import pytest
from helpers.commands import ROOT
from helpers.comparisons import FIELDS, few_shapes
from mmdet.utils import register_all_modules

from ubn_mmdet.comparison.spec import Comparison, SpecError
from ubn_mmdet.comparison.training.configs import open_data
from ubn_mmdet.comparison.training.plan import check_norms

NORM = 'model.backbone.norm_cfg'
MOMENTUM = {f'{NORM}.momentum': 0.03}
OF_DETECTORS = sorted(
    path.name
    for path in (ROOT / 'comparisons').glob('*.py')
    if not path.stem.endswith('pretraining')
)


@pytest.fixture
def check(tmp_path):
    def check(comparison=None, **changes):
        register_all_modules()
        folder = open_data(few_shapes(tmp_path / 'shapes'))
        comparison = comparison or Comparison.read(FIELDS | changes)
        return check_norms(
            comparison, comparison.all_runs, folder, tmp_path / 'preflight'
        )

    return check


def test_each_norm_has_a_manifest(check, tmp_path):
    norms = [{'name': 'UBN-0.03', 'preset': 'ubn', 'options': MOMENTUM}, 'UBN', 'BN']
    checked = check(groups=[{'norms': norms, 'seeds': [1, 2]}])
    assert [*checked] == ['UBN-0.03', 'UBN']
    for name, found in checked.items():
        path = tmp_path / f'preflight/{name}.json'
        manifest = json.loads(path.read_text())
        assert manifest['id'] == found['id']
        assert [config['name'] for config in manifest['configs']] == ['BN', name]
        assert str(path) in found['summary']
    # The small start of UBN; a run's own look at the loss counts.
    start = 'Preflight of UBN beside BN: warnings about backbone, neck'
    assert checked['UBN']['summary'].startswith(start)
    assert 'custom_hooks' not in checked['UBN']['summary']


def test_norms_without_batchnorm_beside_them_are_checked_too(check):
    checked = check(groups=[{'norms': ['BNET'], 'seeds': [1]}])
    assert checked['BNET']['summary'].startswith('Preflight of BNET beside BN: ')


def test_norms_are_checked_with_the_same_seed(check, tmp_path):
    groups = [{'norms': ['BN', 'UBN'], 'seeds': [1]}, {'norms': ['BN'], 'seeds': [2]}]
    check(groups=groups)
    manifest = json.loads((tmp_path / 'preflight/UBN.json').read_text())
    assert 'randomness.seed' not in [found['where'] for found in manifest['findings']]


def test_a_comparison_that_is_refused_is_not_planned(check):
    options = {'auto_scale_lr': {'enable': False, 'base_batch_size': 16}}
    with pytest.raises(SpecError, match='preflight of UBN refuses it .* auto_scale_lr'):
        check(options=options)


def test_a_norm_that_cannot_be_built_is_named(check):
    wrong = {'name': 'Wrong', 'preset': 'ubn', 'options': {f'{NORM}.taps': 3}}
    with pytest.raises(SpecError, match='Wrong cannot be built: TypeError: .*taps'):
        check(groups=[{'norms': ['BN', wrong], 'seeds': [1]}])


@pytest.mark.slow
@pytest.mark.parametrize('name', OF_DETECTORS)
def test_what_ships_is_not_refused(check, name):
    shipped = Comparison.open(ROOT / 'comparisons' / name)
    checked = check(shipped)
    assert [*checked] == [norm for norm in shipped.planned() if norm != 'BN']


def test_weights_that_cannot_be_read_are_named(check, tmp_path):
    (tmp_path / 'broken.pth').write_bytes(b'weights')
    broken = {'name': 'UBN', 'backbone': str(tmp_path / 'broken.pth')}
    with pytest.raises(SpecError, match='weights of UBN cannot be read'):
        check(groups=[{'norms': ['BN', broken], 'seeds': [1]}])
