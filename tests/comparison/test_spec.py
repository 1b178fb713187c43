"""A comparison is read, listed and recognised."""

import pytest

from ubn_mmdet.comparison.spec import Comparison, Contrast, Norm, SpecError

FIELDS = {
    'name': 'some',
    'data': 'data/some',
    'detector': 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
    'image_size': 64,
    'epochs': 2,
    'batch_size': 4,
    'groups': [
        {'norms': ['BN', 'UBN'], 'seeds': [0, 1]},
        {
            'norms': [{'name': 'UBN-slow', 'preset': 'ubn', 'options': {'a.b': 1}}],
            'seeds': [0],
        },
    ],
}


def names(runs):
    return [(run.norm.name, run.seed) for run in runs]


def test_runs_go_seed_by_seed():
    comparison = Comparison.read(FIELDS)
    every = [('BN', 0), ('UBN', 0), ('BN', 1), ('UBN', 1), ('UBN-slow', 0)]
    assert names(comparison.runs()) == every
    assert names(comparison.runs(only=['UBN'])) == [('UBN', 0), ('UBN', 1)]
    assert names(comparison.runs(seeds=[1])) == [('BN', 1), ('UBN', 1)]
    assert [*comparison.planned()] == ['BN', 'UBN', 'UBN-slow']


def test_a_norms_preset_is_its_name_unless_said():
    presets = [(r.norm.preset, r.norm.options) for r in Comparison.read(FIELDS).runs()]
    assert presets[1] == ('ubn', {}) and presets[-1] == ('ubn', {'a.b': 1})


def test_a_file_is_read_by_its_public_variables(tmp_path):
    path = tmp_path / 'mine.py'
    lines = [f'{k} = {v!r}' for k, v in FIELDS.items() if k != 'name']
    path.write_text('\n'.join(['_private = 1', *lines]))
    assert Comparison.open(path).name == 'mine'
    with pytest.raises(SpecError, match='there is no comparison'):
        Comparison.open(tmp_path / 'other.py')


def test_a_file_has_the_fields_of_its_base_where_it_has_none(tmp_path):
    first = {k: v for k, v in FIELDS.items() if k != 'name'} | {'options': {'a': 1}}
    text = ''.join(f'{key} = {value!r}\n' for key, value in first.items())
    (tmp_path / 'first.py').write_text('_mine = 1\n' + text)
    (tmp_path / 'second.py').write_text("_base_ = 'first.py'\nepochs = 5\n")
    (tmp_path / 'below').mkdir()
    third = tmp_path / 'below/third.py'
    third.write_text("_base_ = '../second.py'\nbatch_size = 2\n")
    changed = {'name': 'third', 'epochs': 5, 'batch_size': 2, 'options': {'a': 1}}
    assert Comparison.open(third) == Comparison.read(FIELDS | changed)


def test_options_of_a_base_are_merged_as_in_the_toolbox(tmp_path):
    first = {k: v for k, v in FIELDS.items() if k != 'name'} | {'options': {'a': 1}}
    text = ''.join(f'{key} = {value!r}\n' for key, value in first.items())
    (tmp_path / 'first.py').write_text(text)
    second = tmp_path / 'second.py'
    second.write_text("_base_ = 'first.py'\noptions = {'b': 2}\n")
    assert Comparison.open(second).options == {'a': 1, 'b': 2}
    second.write_text("_base_ = 'first.py'\noptions = {'_delete_': True, 'b': 2}\n")
    assert Comparison.open(second).options == {'b': 2}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / 'one.py'
    path.write_text("_base_ = 'other.py'\n")
    with pytest.raises(SpecError, match=r'one\.py cannot be read: .*other\.py'):
        Comparison.open(path)
    path.write_text('epochs = 1 / 0\n')
    with pytest.raises(SpecError, match=r'one\.py cannot be read: ZeroDivisionError'):
        Comparison.open(path)


def test_a_norm_may_start_from_a_classifiers_backbone():
    norm = Norm.read({'name': 'UBN', 'backbone': 'runs/final.pth', 'options': {'a': 1}})
    start = norm.options.pop('model.backbone.init_cfg')
    assert start['type'] == 'Pretrained' and start['checkpoint'] == 'runs/final.pth'
    assert start['prefix'] == 'backbone.' and norm.options == {'a': 1}


def test_a_norm_may_have_a_learning_rate_of_its_own():
    slow = {'name': 'UBN-slow', 'preset': 'ubn', 'lr': 0.01, 'options': {'a': 1}}
    groups = [{'norms': ['BN', slow], 'seeds': [0]}]
    comparison = Comparison.read(FIELDS | {'groups': groups, 'lr': 0.02})
    key = 'optim_wrapper.optimizer.lr'
    assert comparison.options == {key: 0.02}
    options = [run.norm.options for run in comparison.runs()]
    assert options == [{}, {key: 0.01, 'a': 1}]


def test_a_primary_contrast_is_with_batchnorm_unless_said():
    named = [{'norm': 'UBN', 'metric': 'bbox_mAP'}]
    comparison = Comparison.read(FIELDS | {'primary': named})
    assert comparison.primary == (Contrast('UBN', 'bbox_mAP', 'BN'),)


@pytest.mark.parametrize(
    ('detector', 'name'),
    [
        (
            'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
            'mask-rcnn_r18-scratch_fpn',
        ),
        ('protocol/retinanet_r50_fpn_ubn_1x_coco.py', 'retinanet_r50_fpn'),
        (
            'scratch/mask-rcnn_r50-scratch_fpn_ubn-all_6x_coco.py',
            'mask-rcnn_r50-scratch_fpn-all',
        ),
        ('/some/where/mine.py', 'mine'),
    ],
)
def test_the_detectors_name_has_no_norm(detector, name):
    assert Comparison.read(FIELDS | {'detector': detector}).detector_name() == name


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'epoch': 3}, "unexpected keyword argument 'epoch'"),
        ({'epochs': 0}, 'epochs must be an integer of at least 1, got 0'),
        ({'epochs': True}, 'epochs must be an integer'),
        ({'image_size': 0}, 'image_size must be an integer of at least 1, got 0'),
        ({'image_size': [64, 0]}, 'image_size must be an integer of at least 1, got 0'),
        ({'image_size': [64]}, r'one number or two, got \[64\]'),
        ({'groups': []}, 'at least one norm with one seed'),
        (
            {'groups': [{'norms': ['BN'], 'seeds': []}]},
            'at least one norm with one seed',
        ),
        ({'groups': [{'norms': ['BN'], 'seeds': [-1]}]}, 'a seed must be'),
        ({'groups': [{'norms': ['B/N'], 'seeds': [0]}]}, "got 'B/N'"),
        ({'groups': [{'norms': ['..'], 'seeds': [0]}]}, r"got '\.\.'"),
        ({'lr': 0}, 'lr must be a number above 0, got 0'),
        *(
            ({'lr': 0.1, 'options': {option: {}}}, f'lr and the option {option} both')
            for option in ('optim_wrapper.optimizer', 'optim_wrapper.optimizer.lr')
        ),
        (
            {'groups': [{'norms': [{'name': 'BN', 'lr': 'high'}], 'seeds': [0]}]},
            'lr must',
        ),
        ({'workers': -1}, 'workers must be an integer of at least 0, got -1'),
        ({'primary': [{'norm': 'UBN'}]}, "Contrast.* missing .* argument: 'metric'"),
        ({'primary': [{'norm': 'X', 'metric': 'bbox_mAP'}]}, "is about 'X'; the norms"),
        (
            {'primary': [{'norm': 'UBN', 'metric': 'AP'}]},
            "one of bbox_mAP, segm_mAP, accuracy_top1; got 'AP'",
        ),
        (
            {'primary': [{'norm': 'UBN', 'metric': 'bbox_mAP'}] * 2},
            'a primary contrast is listed twice',
        ),
        ({'groups': [{'norms': ['BN'], 'seeds': [0, 0]}]}, 'BN seed 0 is listed twice'),
        ({'groups': [{'norms': ['BN']}]}, "group.* missing .* argument: 'seeds'"),
        (
            {
                'groups': [
                    {'norms': ['BN'], 'seeds': [0]},
                    {'norms': [{'name': 'BN', 'preset': 'ubn'}], 'seeds': [1]},
                ]
            },
            'BN is defined twice',
        ),
    ],
)
def test_mistakes_are_named(changed, message):
    with pytest.raises(SpecError, match=message):
        Comparison.read(FIELDS | changed)
