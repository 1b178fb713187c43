"""From a run of a comparison to the config that the toolbox trains."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from ...data.coco_folder import SPLITS, CocoFolder, annotation_file
from ...data.image_folder import CLASSES, ImageFolder, list_file
from ...mm.config_nodes import all_nodes, nodes_of, param_schedulers
from ...mm.datasets import SPLIT_OF_LOADER, use_coco_folder, use_image_folder
from ...mm.norm_configs import batchnorms, with_norm
from ...paths import PACKAGE, configs_dir
from ..spec import Comparison, Norm, Run, SpecError

# What does not decide about the result: where things are, and how they are logged.
NOT_HASHED = (
    'work_dir', 'default_hooks', 'log_processor', 'log_level', 'experiment_name',
    'visualizer', 'vis_backends', 'env_cfg', 'launcher', 'resume',
    'test_dataloader', 'test_evaluator', 'test_cfg',
)  # fmt: skip
HOOKS = f'{__package__}.hooks'  # as the toolbox finds what is in no registry
SEED = '{seed}'  # in the path of weights: each seed has its own
_HEAD_BYTES = 4096
Folder: TypeAlias = CocoFolder | ImageFolder


def open_data(source: str | os.PathLike) -> Folder:
    """The checked folder of a comparison: of images to classify, or in COCO's format."""
    source = Path(source).resolve()
    kind = ImageFolder if (source / CLASSES).exists() else CocoFolder
    return kind.open(source)


def resolve(comparison: Comparison, run: Run, folder: Folder) -> Config:
    """The config of one run, except for where its files go.

    Raises:
        SpecError: If the detector's config or the preset does not fit.
    """
    cfg = norm_config(comparison, run.norm, folder)
    for node in nodes_of(cfg.model, 'Pretrained'):  # one pre-training a seed
        node.checkpoint = node.checkpoint.replace(SEED, str(run.seed))
    cfg.randomness = {'seed': run.seed}
    return cfg


def norm_config(comparison: Comparison, norm: Norm, folder: Folder) -> Config:
    """What all runs of a norm share."""
    cfg = common_config(comparison, folder)
    scope = cfg.get('default_scope', 'mmdet')
    if not list(batchnorms(cfg.model, scope)):
        raise SpecError('the detector has no norm_cfg with a BatchNorm to replace')
    cfg.model = with_norm(cfg.model, preset(norm.preset), scope)
    _override(cfg, norm.options)
    return cfg


def common_config(comparison: Comparison, folder: Folder) -> Config:
    """What all runs of a comparison share, with the norm of the detector's config."""
    cfg = deepcopy(_read_config(comparison.detector))
    try:
        _use_folder(cfg, folder, comparison.image_size)
        _set_epochs(cfg, comparison.epochs)
    except (AttributeError, KeyError, ValueError) as error:
        raise SpecError(f'{comparison.detector} cannot be compared: {error}') from error
    cfg.train_dataloader.batch_size = comparison.batch_size
    for loader in SPLIT_OF_LOADER:
        node = cfg[f'{loader}_dataloader']
        node.num_workers = comparison.workers
        # Started anew in each epoch: their random state is that epoch's.
        node.persistent_workers = False
        node.worker_init_fn = {'type': f'{HOOKS}.keep_worker_seed'}
        node.pop('prefetch_factor', None)  # PyTorch refuses it without workers
    _override(cfg, comparison.options)
    # A comparison may name modules of its own, with norms.
    import_modules_from_strings(**cfg.get('custom_imports', {'imports': []}))
    return cfg


def config_hash(cfg: Config, root: Path, data: str, processes: int) -> str:
    """A hash of what decides about a run's result.

    Where the data and pre-trained weights are does not count, but what they are: ``data``
    is their hash (:func:`data_hash`), ``root`` their folder.
    """
    content = deepcopy(cfg)
    for key in NOT_HASHED:
        content.pop(key, None)
    for node in nodes_of(content.model, 'Pretrained'):
        node.checkpoint = _weights_hash(node.checkpoint)
    content.load_from = _weights_hash(content.get('load_from'))
    content.update(_own_code(cfg))
    tree = [content.to_dict(), data, processes]
    text = json.dumps(tree, sort_keys=True, default=str)
    text = text.replace(json.dumps(str(root))[1:-1], 'DATA')
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own_code(cfg: Config) -> dict[str, str]:
    """Hashes of the files that a config imports, but for installed packages and ours.

    These are of the commit, or of the versions, that a result names.
    """
    modules = set((cfg.get('custom_imports') or {}).get('imports', []))
    for node in all_nodes(list(cfg.values())):
        for kind in node.get('type'), node.get('constructor'):
            # A class, or its name with its module.
            modules.add(
                getattr(kind, '__module__', None) or str(kind).rpartition('.')[0]
            )
    modules.discard('')
    found = {}
    for name in sorted(modules):
        with contextlib.suppress(ModuleNotFoundError):  # a scope, as in mmdet.UBN
            spec = find_spec(name)
            path = Path(spec.origin) if spec and spec.origin else PACKAGE
            known = PACKAGE in path.parents or 'site-packages' in path.parts
            if path.is_file() and not known:
                found[f'code of {name}'] = _file_hash(path)
    return found


def data_hash(root: Path) -> str:
    """A hash of annotations and images.

    Annotations count as a whole. Of an image it is the size in bytes and the first 4096
    bytes, besides its name: large data would take minutes to read.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        if (root / CLASSES).exists():
            listing = root / list_file(split)
            lines = listing.read_text().splitlines()
            names = [line.rpartition(' ')[0] for line in lines]
        else:
            listing = root / annotation_file(split)
            images = json.loads(listing.read_bytes())['images']
            names = [image['file_name'] for image in images]
        digest.update(_file_hash(listing).encode())
        for name in names:
            path = root / split / name
            with open(path, 'rb') as file:
                head = file.read(_HEAD_BYTES)
            digest.update(f'{path.stat().st_size}\n'.encode() + head)
    return digest.hexdigest()


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


def _use_folder(cfg: Config, folder: Folder, size: int | tuple[int, int]) -> None:
    """Train and evaluate on ``folder``, with images that fit into ``size``, in place."""
    if isinstance(folder, CocoFolder):
        use_coco_folder(cfg, folder)
        sized, settings = ['Resize'], dict[str, object](keep_ratio=True)
    else:
        if not isinstance(size, int):
            raise ValueError(f'image_size must be one number, got {size!r}')
        use_image_folder(cfg, folder)
        sized, settings = ['RandomResizedCrop', 'Resize'], {}
    settings['scale'] = (size, size) if isinstance(size, int) else tuple(size)
    for loader in SPLIT_OF_LOADER:
        nodes = nodes_of(cfg[f'{loader}_dataloader'], *sized)
        if not nodes:
            raise ValueError(f'its {loader} pipeline has no {" or ".join(sized)}')
        for node in nodes:
            node.update(settings)


def _override(cfg: Config, options: dict) -> None:
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise SpecError(f'the options {options} do not fit: {error}') from error


@cache
def _read_config(name: str) -> Config:
    """A detector's config; the toolbox takes seconds to find what ``mmdet::`` names."""
    candidates = configs_dir() / name, Path(name)
    for path in candidates:
        if path.is_file():
            return Config.fromfile(path)
    raise SpecError(f'the detector is neither {candidates[0]} nor {candidates[1]}')


def _set_epochs(cfg: Config, epochs: int) -> None:
    """Stretch the schedule, and evaluate each epoch; a warm-up counted in steps stays.

    One that is counted in epochs has one epoch at least.

    Raises:
        ValueError: If the epochs have no place for all milestones of the schedule.
    """
    old = cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = 1
    for scheduler in param_schedulers(cfg):
        if not scheduler.get('by_epoch', True):
            continue
        for key in ('begin', 'end', 'T_max'):
            if key in scheduler:
                least = 0 if key == 'begin' else scheduler.get('begin', 0) + 1
                scheduler[key] = max(least, round(scheduler[key] * epochs / old))
        if 'milestones' in scheduler:
            scheduler.milestones = _stretch_milestones(
                scheduler.milestones, old, epochs
            )


def _stretch_milestones(milestones: Sequence[int], old: int, epochs: int) -> list[int]:
    """Each at its share of the epochs, but before the last one ends and apart."""
    count = len(milestones)
    if epochs <= count:
        raise ValueError(
            f'its schedule has milestones after the epochs {list(milestones)} of {old}: '
            f'epochs must be at least {count + 1}, got {epochs}'
        )
    stretched: list[int] = []
    for i, milestone in enumerate(milestones):
        earliest = stretched[-1] + 1 if stretched else 1
        latest = epochs - (count - i)
        stretched.append(min(max(round(milestone * epochs / old), earliest), latest))
    return stretched


def _weights_hash(checkpoint: str | None) -> str | None:
    """Of a file; a name that the toolbox looks up, torchvision://..., is as good."""
    if not checkpoint or '://' in checkpoint or SEED in checkpoint:
        return checkpoint
    if not Path(checkpoint).is_file():
        raise SpecError(f'there are no pre-trained weights {checkpoint}')
    return _file_hash(Path(checkpoint))


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
