"""Every shipped config resolves, builds, and swaps the norms it says it swaps."""

import copy
import functools
import math
from collections import Counter
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.commands import ROOT, run
from helpers.optim import groups_of
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import ubn_mmdet
from ubn_mmdet import UBN
from ubn_mmdet.data import shapes
from ubn_mmdet.layers import FAMILY

CONFIGS = ROOT / 'configs'
SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'

R18, R50, R101 = 20, 53, 104  # norm layers of the backbones
SCRATCH_MASK = {
    'backbone': R50,
    'neck': 8,
    'roi_head.bbox_head': 4,
    'roi_head.mask_head': 4,
}
SCRATCH_RETINA = {'backbone': R50, 'neck': 8, 'bbox_head': 2 * 4 * 5}

# Norm layers per component, all of the class that the file name says, and no others.
LAYERS = {
    'protocol/mask-rcnn_r50_fpn_{}_1x_coco': {'backbone': R50},
    'protocol/mask-rcnn_r101_fpn_{}_1x_coco': {'backbone': R101},
    'protocol/faster-rcnn_r50_fpn_{}_1x_coco': {'backbone': R50},
    'protocol/faster-rcnn_r101_fpn_{}_1x_coco': {'backbone': R101},
    'protocol/retinanet_r50_fpn_{}_1x_coco': {'backbone': R50},
    'protocol/retinanet_r101_fpn_{}_1x_coco': {'backbone': R101},
    'finetune/mask-rcnn_r50-live_fpn_{}_1x_coco': {'backbone': R50},
    'finetune/retinanet_r50-live_fpn_{}_1x_coco': {'backbone': R50},
    'scratch/mask-rcnn_r50-scratch_fpn_{}-all_6x_coco': SCRATCH_MASK,
    'scratch/retinanet_r50-scratch_fpn_{}-all_6x_coco': SCRATCH_RETINA,
    'demo/mask-rcnn_r18-scratch_fpn_{}_6e_shapes': {'backbone': R18},
    'demo/faster-rcnn_r18-scratch_fpn_{}_6e_shapes': {'backbone': R18},
    'demo/retinanet_r18-scratch_fpn_{}_6e_shapes': {'backbone': R18},
}
FROM_SCRATCH = ('scratch', 'demo')
UBN_PLAIN = {'type': 'UBN', 'requires_grad': True}
UBN_AUTHORS_START = {**UBN_PLAIN, 'initial_weight': 0, 'initial_spatial': 'kaiming'}
BN = {'type': 'BN', 'requires_grad': True}
# Where statistics are live, UBN's are those of all GPUs, and so must be its twin's.
BN_MERGED = {
    **UBN_PLAIN,
    'centering': False,
    'scaling': None,
    'kernel_size': 1,
    'condensation_threshold': None,
}
BNET = {**UBN_AUTHORS_START, 'type': 'BNET'}
NO_GATE = {**UBN_AUTHORS_START, 'condensation_threshold': None}
# Patterns with more arms than two.
ARMS = {
    'protocol/mask-rcnn_r50_fpn_{}_1x_coco': {
        'bnet': BNET,
        'bn-small': BN,  # small at the start of its pre-training
        'ubn-no-gate': NO_GATE,
    },
    'scratch/mask-rcnn_r50-scratch_fpn_{}-all_6x_coco': {
        'bnet': BNET,
        'bn-small': {**BN_MERGED, 'initial_weight': 0.1},
        'ubn-no-gate': NO_GATE,
    },
    **{pattern: {'bnet': BNET} for pattern in LAYERS if pattern.startswith('demo')},
}
PRESETS = sorted((CONFIGS / '_base_/norms').glob('*.py'))


def norms_of(pattern: str) -> dict[str, dict]:
    """The norm configs that a pattern of ``LAYERS`` has, by their word in the name."""
    ubn = UBN_PLAIN if pattern.startswith('finetune') else UBN_AUTHORS_START
    bn = BN_MERGED if pattern.startswith(('finetune', 'scratch')) else BN
    return {'ubn': ubn, 'bn': bn, **ARMS.get(pattern, {})}


NAMES = {
    pattern.format(word) + '.py': (pattern, word)
    for pattern in LAYERS
    for word in norms_of(pattern)
}
# What all those at full size add to the toolbox's own.
ADDED = {
    'auto_scale_lr.enable',
    'custom_imports.imports.0',
    'custom_imports.allow_failed_imports',
    'custom_hooks.0.type',
    'custom_hooks.1.type',
    'optim_wrapper.constructor',
    'randomness.seed',
}
# Detectors; test_pretraining.py has the others.
FILES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if not {'_base_', 'pretrain'} & set(path.parts)
)
TWINS = [name for name in FILES if NAMES[name][1] != 'bn']
# Those with layers of ours; a deeper backbone has the same blocks.
TRAINED = [
    name
    for name in FILES
    if norms_of(NAMES[name][0])[NAMES[name][1]] != BN and '_r101_' not in name
]


def in_folder(*folders: str) -> list[str]:
    """The configs below these folders."""
    return [name for name in FILES if name.split('/')[0] in folders]


@functools.cache
def load(name: str) -> Config:
    """A config, resolved; not to be changed."""
    return Config.fromfile(CONFIGS / name)


def build_model(name: str) -> nn.Module:
    """The config's model, on the device of the context."""
    register_all_modules()
    # A copy: mmdet's detectors write into the config they are built from.
    return MODELS.build(copy.deepcopy(load(name).model))


@functools.cache
def build(name: str) -> nn.Module:
    """The config's model without memory behind its tensors, in training mode."""
    with torch.device('meta'):
        return build_model(name).train()


def flatten(tree: object, path: str = '') -> dict[str, object]:
    """The leaves of a config by dotted path, less mmengine's ``_scope_`` marks."""
    if not isinstance(tree, dict | list | tuple) or not tree:
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        leaf: value
        for key, child in items
        if key != '_scope_'
        for leaf, value in flatten(child, f'{path}.{key}' if path else str(key)).items()
    }


def difference(a: Config, b: Config) -> set[str]:
    """Paths at which two configs are not the same."""
    a, b = flatten(a.to_dict()), flatten(b.to_dict())
    absent = object()
    return {key for key in a | b if a.get(key, absent) != b.get(key, absent)}


def without_norms(paths: set[str]) -> set[str]:
    """The paths that do not lie inside a ``norm_cfg`` or a preset."""
    return {path for path in paths if not {'norm_cfg', 'norm'} & set(path.split('.'))}


def component(name: str) -> str:
    """The part of a detector that the module ``name`` belongs to."""
    parts = name.split('.')
    return '.'.join(parts[:2] if parts[0] == 'roi_head' else parts[:1])


def norm_layers(name: str) -> dict[str, _BatchNorm]:
    """The config's norm layers by name."""
    return {
        key: module
        for key, module in build(name).named_modules()
        if isinstance(module, _BatchNorm | nn.GroupNorm)
    }


def test_table_lists_every_config() -> None:
    assert FILES == sorted(NAMES)


@pytest.mark.parametrize('name', FILES)
def test_norm_layers_per_component(name: str) -> None:
    pattern, word = NAMES[name]
    layers = norm_layers(name)
    assert Counter(component(key) for key in layers) == LAYERS[pattern]
    kind = {'BN': nn.BatchNorm2d, 'BNET': ubn_mmdet.BNET, 'UBN': UBN}
    expected = kind[norms_of(pattern)[word]['type']]
    assert all(type(layer) is expected for layer in layers.values())


@pytest.mark.parametrize('name', FILES)
def test_norm_config_is_exact(name: str) -> None:
    pattern, word = NAMES[name]
    model = load(name).model
    for part in LAYERS[pattern]:
        norm = functools.reduce(lambda tree, key: tree[key], part.split('.'), model)
        assert norm.norm_cfg == norms_of(pattern)[word], part


@pytest.mark.parametrize('path', PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_one_norm_that_builds(path: Path) -> None:
    register_all_modules()
    config = Config.fromfile(path)
    assert list(config) == ['norm'] and config.norm.requires_grad is True
    _, layer = build_norm_layer(config.norm, 32)
    assert isinstance(layer, _BatchNorm | nn.GroupNorm)


def test_every_member_has_a_preset() -> None:
    for member in FAMILY:  # by whose name a comparison finds it
        path = CONFIGS / f'_base_/norms/{member.__name__.lower()}.py'
        assert Config.fromfile(path).norm.type == member.__name__


def test_no_two_presets_are_the_same() -> None:
    norms = [Config.fromfile(path).norm.to_dict() for path in PRESETS]
    assert all(norms.count(norm) == 1 for norm in norms)


@pytest.mark.parametrize('folder', ['demo', 'protocol'])
def test_two_lines_put_a_preset_into_a_detector(folder: str, tmp_path: Path) -> None:
    path = CONFIGS / '_base_/norms/bgn.py'
    detector = next(name for name in in_folder(folder) if '_bn_' in name)
    mine = tmp_path / 'mine.py'
    mine.write_text(
        f"_base_ = ['{CONFIGS / detector}', '{path}']\n"
        'model = dict(backbone=dict(norm_cfg=dict(_delete_=True, **_base_.norm)))'
    )
    config = Config.fromfile(mine)
    expected = Config.fromfile(path).norm
    assert config.model.backbone.norm_cfg.to_dict() == expected.to_dict()
    assert not without_norms(difference(config, load(detector)))


@pytest.mark.parametrize('name', FILES)
def test_package_is_imported(name: str) -> None:
    assert load(name).custom_imports == {
        'imports': ['ubn_mmdet'],
        'allow_failed_imports': False,
    }


@pytest.mark.parametrize('name', TWINS)
def test_twin_differs_in_the_norm_alone(name: str) -> None:
    pattern, _ = NAMES[name]
    differing = difference(load(pattern.format('bn') + '.py'), load(name))
    assert differing
    expected = set()
    if name.startswith('protocol/'):  # each norm from its own ImageNet training
        expected = {'model.backbone.init_cfg.checkpoint'}
    assert without_norms(differing) == expected


@pytest.mark.parametrize('name', in_folder('protocol'))
def test_protocol_is_the_shipped_config_with_another_backbone(name: str) -> None:
    config = load(name)
    model, depth = Path(name).name.split('_')[:2]
    shipped = SHIPPED / model.replace('-', '_') / f'{model}_{depth}_fpn_1x_coco.py'
    differing = difference(Config.fromfile(shipped), config)
    word = NAMES[name][1]
    assert {path for path in without_norms(differing) if path.startswith('model.')} == {
        'model.backbone.init_cfg.checkpoint',
        'model.backbone.init_cfg.prefix',
    }
    assert {path for path in without_norms(differing) if path[:6] != 'model.'} == {
        *ADDED,
        'imagenet',
        'custom_hooks.2.type',
        'custom_hooks.3.type',
    }
    assert [hook.type for hook in config.custom_hooks[2:]] == [
        'CheckpointLayoutHook',
        'FeatureScaleHook',
    ]
    backbone = config.model.backbone
    checkpoint = config.imagenet.format(norm=word, depth=depth[1:])
    assert backbone.init_cfg.checkpoint == checkpoint
    assert backbone.init_cfg.prefix == 'backbone.'
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[0].end == 500
    assert config.param_scheduler[1].milestones == [8, 11]
    learning_rate = 0.01 if model == 'retinanet' else 0.02
    assert config.optim_wrapper.optimizer == {
        'type': 'SGD',
        'lr': learning_rate,
        'momentum': 0.9,
        'weight_decay': 0.0001,
    }


@pytest.mark.parametrize('name', in_folder('protocol', 'finetune', 'scratch'))
def test_at_full_size_a_run_is_seeded_and_looked_after(name: str) -> None:
    config = load(name)
    assert config.randomness == {'seed': 0}
    hooks = [hook.type for hook in config.custom_hooks]
    assert hooks[:2] == ['CheckInvalidLossHook', 'BroadcastBuffersHook']
    # On other than 8 GPUs with 2 images each the rate follows.
    assert config.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    assert config.train_dataloader.batch_size == 2


def test_protocol_trains_with_norms_in_evaluation_mode() -> None:
    layers = norm_layers('protocol/mask-rcnn_r50_fpn_ubn_1x_coco.py')
    assert not any(layer.training for layer in layers.values())
    frozen = {
        key
        for key, layer in layers.items()
        if not any(parameter.requires_grad for parameter in layer.parameters())
    }
    assert frozen == {
        key for key in layers if key.startswith(('backbone.bn1', 'backbone.layer1.'))
    }


@pytest.mark.parametrize('name', in_folder('finetune'))
def test_finetune_is_the_shipped_config_unfrozen(name: str) -> None:
    model = Path(name).name.split('_')[0]
    shipped = SHIPPED / model.replace('-', '_') / f'{model}_r50_fpn_1x_coco.py'
    assert without_norms(difference(Config.fromfile(shipped), load(name))) == {
        *ADDED,
        'model.backbone.frozen_stages',
        'model.backbone.norm_eval',
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
    }
    assert load(name).model.backbone.init_cfg == {
        'type': 'Pretrained',
        'checkpoint': 'torchvision://resnet50',
    }


@pytest.mark.parametrize('name', in_folder('finetune', *FROM_SCRATCH))
def test_every_norm_layer_is_live(name: str) -> None:
    for key, layer in norm_layers(name).items():
        assert layer.training, key
        for parameter_name, parameter in layer.named_parameters():
            assert parameter.requires_grad, f'{key}.{parameter_name}'


@pytest.mark.parametrize('name', in_folder(*FROM_SCRATCH))
def test_from_scratch(name: str) -> None:
    config = load(name)
    backbone = config.model.backbone
    assert backbone.norm_eval is False
    assert backbone.frozen_stages == -1
    assert backbone.zero_init_residual is False
    assert backbone.init_cfg is None
    assert 'Pretrained' not in flatten(config.to_dict()).values()
    assert config.load_from is None


@pytest.mark.parametrize('name', in_folder('scratch'))
def test_scratch_follows_the_shipped_schedule(name: str) -> None:
    config = load(name)
    shipped = Config.fromfile(
        SHIPPED / 'scratch' / 'mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py'
    )
    for key in ('param_scheduler', 'train_cfg', 'default_hooks'):
        assert flatten(config[key]) == flatten(shipped[key]), key
    wrapper = config.optim_wrapper
    assert wrapper.paramwise_cfg.norm_decay_mult == 0
    assert wrapper.optimizer.lr == (0.01 if 'retinanet' in name else 0.02)
    if 'mask-rcnn' in name:
        assert without_norms(difference(shipped, config)) == {
            *ADDED,
            'model.backbone.norm_eval',
        }


@pytest.mark.parametrize('name', FILES)
def test_what_of_a_norm_layer_decays(name: str) -> None:
    """All of it where the paper is repeated, and else the kernels alone."""
    model = build(name)
    groups = groups_of(model, build_optim_wrapper(model, load(name).optim_wrapper))
    learning = {key for key, p in model.named_parameters() if p.requires_grad}
    assert learning <= groups.keys()  # the optimizer leaves none out
    repeats_paper = name.startswith('protocol')
    for layer_name, layer in model.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        for key, parameter in layer.named_parameters():
            if parameter.requires_grad:
                decay = groups[f'{layer_name}.{key}'][1]
                assert (decay > 0) == (repeats_paper or key == 'spatial_weight'), key


@pytest.mark.parametrize('name', in_folder('scratch'))
def test_initial_values_survive_the_initialisers(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name)
    model.init_weights()
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    start = norms_of(NAMES[name][0])[NAMES[name][1]]
    for layer in layers:
        assert (layer.bias == 0).all()
        if 'initial_spatial' not in start:
            assert (layer.weight == start.get('initial_weight', 1)).all()
            continue
        gate = 1 / (1 + math.exp(-1))
        expected = gate * math.sqrt(2 / (9 * layer.num_features))
        assert layer.spatial_weight.std().item() == pytest.approx(expected, rel=0.2)
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAINED)
def test_one_step_reaches_every_parameter(name: str) -> None:
    # Distributed training waits in vain for a parameter without a gradient.
    torch.manual_seed(0)
    register_all_modules()
    cfg = copy.deepcopy(load(name))
    cfg.model.backbone.init_cfg = None  # checkpoints are not available
    if cfg.model.type != 'RetinaNet':
        cfg.model.train_cfg.rcnn.sampler.num = 16  # instead of 512, to save time
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    inputs = demo_mm_inputs(
        2,
        image_shapes=[(3, 128, 128)] * 2,
        num_items=[3, 3],
        num_classes=2,
        with_mask='mask-rcnn' in name,
    )
    losses = model(**model.data_preprocessor(inputs, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize('name', in_folder('demo'))
def test_demo_reads_the_generated_data(name: str) -> None:
    config = load(name)
    assert config.classes == shapes.CLASSES
    heads = config.model.get('roi_head', config.model)
    for head in ('bbox_head', 'mask_head'):
        if head in heads:
            assert heads[head].num_classes == len(shapes.CLASSES), head
    for split in ('train', 'val', 'test'):
        dataset = config[f'{split}_dataloader'].dataset
        source = 'train' if split == 'train' else 'val'
        assert dataset.data_root == 'data/shapes/'
        assert dataset.metainfo.classes == shapes.CLASSES
        assert dataset.ann_file == f'instances_{source}.json'
        assert dataset.data_prefix.img == f'{source}/'
        if split != 'train':
            evaluator = config[f'{split}_evaluator']
            assert evaluator.ann_file == 'data/shapes/instances_val.json'
            has_masks = 'mask_head' in heads
            assert evaluator.metric == (['bbox', 'segm'] if has_masks else 'bbox')


@pytest.mark.parametrize('folder', ['protocol', 'finetune', 'scratch', 'demo'])
def test_dump_resolves_to_the_same_config(folder: str, tmp_path: Path) -> None:
    # What a training leaves in its work directory, and testing may be given.
    config = load(in_folder(folder)[-1])
    config.dump(tmp_path / 'dumped.py')
    assert not difference(Config.fromfile(tmp_path / 'dumped.py'), config)


@pytest.mark.slow
def test_shipped_tool_reads_the_config(tmp_path: Path) -> None:
    path = CONFIGS / in_folder('protocol')[-1]
    resolved = tmp_path / 'resolved.py'
    tool = SHIPPED.parent / 'tools' / 'misc' / 'print_config.py'
    run(tool, path, '--save-path', resolved, cwd=tmp_path)  # not the repository's root
    assert not difference(Config.fromfile(resolved), Config.fromfile(path))
