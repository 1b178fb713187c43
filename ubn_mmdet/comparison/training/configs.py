"""From a run of a comparison to the config that the toolbox trains."""

import hashlib
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ...data.coco_folder import SPLITS, CocoFolder
from ...data.image_folder import CLASSES, ImageFolder
from ...data.subset import make_subset
from ...layers import FAMILY
from ...mm.config_nodes import all_nodes, nodes_of
from ...mm.datasets import SPLIT_OF_LOADER
from ...paths import configs_dir
from ..spec import Comparison, Norm, Run, SpecError, fingerprint
from .task import Folder, task_of

# What the detector's config may hold where a preset goes: BatchNorm and its relatives.
REPLACED = (
    *('BN', 'BN1d', 'BN2d', 'BN3d', 'SyncBN', 'MMSyncBN'),
    *(member.__name__ for member in FAMILY),
)
# What decides about the result. The rest says where things are and how they are logged.
HASHED = (
    'model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'optim_wrapper',
    'param_scheduler', 'auto_scale_lr', 'val_evaluator', 'custom_hooks', 'randomness',
)  # fmt: skip
_ROOT = 'DATA'
_BATCH_NORM = {'type': 'BN', 'requires_grad': True}


def open_data(
    comparison: Comparison, source: str | os.PathLike, work_dir: str | os.PathLike
) -> Folder:
    """The checked data of a comparison: a folder, or a part of it made in ``work_dir``."""
    source = Path(source).resolve()
    parts = {'classes': comparison.classes, 'train_images': comparison.train_images}
    is_part = any(value is not None for value in parts.values())
    if (source / CLASSES).exists():
        if is_part:
            raise SpecError(f'{source} is to be classified: it is used as a whole')
        return ImageFolder.open(source)
    folder = CocoFolder.open(source)
    if not is_part:
        return folder
    words = [str(v) + k.replace('_', '-') for k, v in parts.items() if v is not None]
    target = Path(work_dir).resolve() / 'data' / '-'.join([folder.root.name, *words])
    return CocoFolder.open(make_subset(folder, target, **parts))


def resolve(comparison: Comparison, run: Run, folder: Folder) -> Config:
    """The config of one run, complete but for where its files go.

    Raises:
        SpecError: If the detector's config or the preset does not fit.
    """
    cfg = common_config(comparison, folder)
    put_norm(cfg.model, preset(run.norm.preset))
    _override(cfg, run.norm.options)
    cfg.randomness = {'seed': run.seed}
    return cfg


def common_config(comparison: Comparison, folder: Folder) -> Config:
    """What all runs of a comparison share, with the norm of the detector's config."""
    cfg = Config.fromfile(_find_config(comparison.detector))
    try:
        task_of(folder).use_folder(cfg, folder, comparison.image_size)
        _set_epochs(cfg, comparison.epochs)
    except (AttributeError, KeyError, ValueError) as error:
        raise SpecError(f'{comparison.detector} cannot be compared: {error}') from error
    cfg.train_dataloader.batch_size = comparison.batch_size
    for loader in SPLIT_OF_LOADER:
        # In the main process: augmentation then draws from the state that is set anew
        # for each epoch.
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False
    _override(cfg, comparison.options)
    return cfg


def shared_config(comparison: Comparison, folder: Folder) -> Config:
    """:func:`common_config` without what is each run's own, but for the norm."""
    cfg = common_config(comparison, folder)
    cfg.randomness = None
    for node in nodes_of(cfg.model, 'Pretrained'):
        node.checkpoint = None
    return cfg


def config_hash(cfg: Config, folder: Folder, processes: int) -> str:
    """A hash of what decides about a run's result.

    Where the data and pre-trained weights are does not count, but what they are.
    """
    listing = task_of(folder).listing
    annotations = {split: _file_hash(listing(folder, split)) for split in SPLITS}
    content = deepcopy(Config({key: cfg.get(key) for key in HASHED}))
    for node in nodes_of(content.model, 'Pretrained'):
        node.checkpoint = _weights_hash(node.checkpoint)
    content = _replace_root(content.to_dict(), str(folder.root))
    return fingerprint([content, annotations, processes])


def preset(name: str) -> dict:
    """The ``norm_cfg`` of ``configs/_base_/norms/<name>.py``."""
    presets = configs_dir() / '_base_/norms'
    path = presets / f'{name}.py'
    if not path.is_file():
        known = ', '.join(sorted(p.stem for p in presets.glob('*.py')))
        raise SpecError(
            f'there is no norm preset {name!r} in {presets}; it has {known}'
        )
    return Config.fromfile(path).norm.to_dict()


def put_norm(model: ConfigDict, norm_cfg: dict) -> None:
    """Put ``norm_cfg`` in place of every BatchNorm of a model's config.

    Raises:
        SpecError: If there is none.
    """
    places = [node for node in all_nodes(model) if _is_batch_norm(node.get('norm_cfg'))]
    if not places:
        raise SpecError('the detector has no norm_cfg with a BatchNorm to replace')
    for node in places:
        node.norm_cfg = ConfigDict(deepcopy(norm_cfg))


def batch_norm_twin(cfg: Config) -> Config:
    """The same config with BatchNorm."""
    twin = deepcopy(cfg)
    put_norm(twin.model, _BATCH_NORM)
    return twin


def describe(comparison: Comparison, norm: Norm) -> dict:
    """What a result says of the settings of a norm's runs."""
    return {
        'comparison': comparison.name,
        'detector': comparison.detector_name(),
        'norm': norm.name,
        'norm_cfg': preset(norm.preset),
        'options': {**comparison.options, **norm.options},
        'epochs': comparison.epochs,
        'image_size': comparison.image_size,
        'batch_size': comparison.batch_size,
        'processes': comparison.processes,
    }


def _override(cfg: Config, options: dict) -> None:
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise SpecError(f'the options {options} do not fit: {error}') from error


def _find_config(name: str) -> Path:
    candidates = configs_dir() / name, Path(name)
    for path in candidates:
        if path.is_file():
            return path
    raise SpecError(f'the detector is neither {candidates[0]} nor {candidates[1]}')


def _is_batch_norm(norm_cfg: dict | None) -> bool:
    return norm_cfg is not None and norm_cfg.get('type') in REPLACED


def _set_epochs(cfg: Config, epochs: int) -> None:
    """Stretch the schedule, and evaluate each epoch; a warm-up counted in steps stays."""
    old = cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = 1
    for scheduler in cfg.param_scheduler:
        if not scheduler.get('by_epoch', True):
            continue
        for key in ('begin', 'end', 'T_max', 'milestones'):
            if key in scheduler:
                scheduler[key] = _stretch(scheduler[key], epochs / old)


def _stretch(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return [_stretch(item, factor) for item in value]
    return round(value * factor)


def _weights_hash(checkpoint: str | None) -> str | None:
    """Of a file; a name that the toolbox looks up, torchvision://..., is as good."""
    if checkpoint is None or '://' in checkpoint:
        return checkpoint
    if not Path(checkpoint).is_file():
        raise SpecError(f'there are no pre-trained weights {checkpoint}')
    return _file_hash(Path(checkpoint))


def _file_hash(path: Path) -> str:
    with open(path, 'rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _replace_root(tree: object, root: str) -> object:
    if isinstance(tree, dict):
        return {key: _replace_root(value, root) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replace_root(value, root) for value in tree]
    return tree.replace(root, _ROOT) if isinstance(tree, str) else tree
