"""What the runs of a comparison are, checked before the first of them."""

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

from mmengine.config import Config

from ...data.coco_folder import CocoFolder
from ...files import write_whole
from ...mm.config_nodes import nodes_of
from ...mm.preflight import Side, preflight
from ..spec import Comparison, Norm, Run, SpecError
from .configs import (
    Folder,
    common_config,
    config_hash,
    data_hash,
    norm_config,
    open_data,
    preset,
    resolve,
)


def make_plan(
    comparison: Comparison, runs: Sequence[Run], data: str, work_dir: str
) -> dict:
    """``{'root', 'setting_hash', 'runs', 'notes'}``.

    ``root`` is the folder of the data, notes are lines for the user. For each of the
    ``runs``, which are some of the comparison's, there is its ``config``, ``config_hash``,
    and the ``settings`` that a result says of it, with a ``norm_hash`` of what all runs of
    its norm share. What a preflight has found is below
    ``work_dir``.

    Raises:
        ValueError: If the data, the detector's config or a preset does not fit.
    """
    # What the toolbox says when it is imported is no part of the plan.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        from mmdet.utils import register_all_modules

        register_all_modules()
    # Runs print their configs by yapf, whose first use on a machine writes a cache, in
    # place: of two runs at once, one would read half of it.
    _ = Config().pretty_text
    folder = open_data(data)
    data_is = data_hash(folder.root)

    def hash_of(cfg: Config) -> str:
        return config_hash(cfg, folder.root, data_is, comparison.processes)

    # Before the preflight, which takes longer: weights that are missing are named here.
    shared = common_config(comparison, folder)
    shared.randomness = None
    for node in nodes_of(shared.model, 'Pretrained'):  # each norm and seed has its own
        node.checkpoint = None
    _check_metrics(comparison, shared, folder)
    setting_hash = hash_of(shared)
    norms = {run.norm.name: run.norm for run in runs}
    norm_hashes = {
        name: hash_of(norm_config(comparison, norm, folder))
        for name, norm in norms.items()
    }
    configs = [resolve(comparison, run, folder) for run in runs]
    hashes = [hash_of(cfg) for cfg in configs]
    checked = check_norms(comparison, runs, folder, Path(work_dir) / 'preflight')
    settings = {
        'detector': comparison.detector_name(),
        'epochs': comparison.epochs,
        'image_size': comparison.image_size,
        'batch_size': comparison.batch_size,
        'processes': comparison.processes,
        'data': Path(data).resolve().name,
        'classes': len(folder.classes),
        'train_images': _train_images(shared, folder),
        'val_images': folder.num_images['val'],
    }
    entries = []
    for run, cfg, its_hash in zip(runs, configs, hashes, strict=True):
        norm = {
            'norm': run.norm.name,
            'norm_hash': norm_hashes[run.norm.name],
            'norm_cfg': preset(run.norm.preset),
            'options': {**comparison.options, **run.norm.options},
            'seed': run.seed,
            'preflight': checked.get(run.norm.name, {}).get('id'),
        }
        entries.append(
            {'config': cfg, 'config_hash': its_hash, 'settings': settings | norm}
        )
    return {
        'root': folder.root,
        'setting_hash': setting_hash,
        'runs': entries,
        'notes': [found['summary'] for found in checked.values()],
    }


def _check_metrics(comparison: Comparison, cfg: Config, folder: Folder) -> None:
    """Raise SpecError for a primary contrast in what the model is not evaluated by."""
    known = ['accuracy_top1']
    if isinstance(folder, CocoFolder):
        metrics = cfg.val_evaluator.get('metric', 'bbox')
        kinds = [metrics] if isinstance(metrics, str) else metrics
        known = [f'{kind}_mAP' for kind in kinds]
    for contrast in comparison.primary:
        if contrast.metric not in known:
            raise SpecError(
                f'a primary contrast is about {contrast.metric}, and '
                f'{comparison.detector} is evaluated by {", ".join(known)}'
            )


def _train_images(cfg: Config, folder: Folder) -> int:
    """How many images are trained on: all, unless the data set has ``indices``."""
    there = folder.num_images['train']
    indices = cfg.train_dataloader.dataset.get('indices')
    if isinstance(indices, Sequence):
        return len(indices)
    return min(abs(indices or there), there)


def check_norms(
    comparison: Comparison, runs: Sequence[Run], folder: Folder, place: Path
) -> dict[str, dict[str, str]]:
    """The preflight: the config of each norm's first run against the baseline's.

    Leaves a manifest for each norm in ``place``.

    Returns:
        For each norm but the baseline ``{'id', 'summary'}``: of the manifest, and a line.

    Raises:
        SpecError: For a refusal, and for a norm whose model cannot be built.
    """
    baseline = next((contrast.baseline for contrast in comparison.primary), 'BN')
    # The first of each norm's.
    first = {run.norm.name: run for run in reversed(runs)}
    names = [n for n in comparison.planned() if n in first and n != baseline]
    if not names:
        return {}
    # Where the baseline does not run, it is beside them all the same.
    norms = {run.norm.name: run.norm for run in comparison.all_runs}
    norm = norms.get(baseline) or Norm.read(baseline)
    first.setdefault(baseline, Run(norm, first[names[0]].seed))

    def side(name: str) -> Side:
        cfg = resolve(comparison, first[name], folder)
        # Preflight knows this hook alone; a run of a comparison has FiniteLossHook.
        looks = {'type': 'CheckInvalidLossHook'}
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), looks]
        try:
            return Side(name, cfg)
        except UnpicklingError as error:
            raise SpecError(f'weights of {name} cannot be read: {error}') from error
        except Exception as error:  # whatever the classes of a model raise
            what = f'{type(error).__name__}: {error}'
            raise SpecError(f'{name} cannot be built: {what}') from error

    checked: dict[str, dict[str, str]] = {}
    of_baseline = side(baseline)
    for name in names:
        manifest = preflight(of_baseline, side(name), comparison.processes)
        path = place / f'{name}.json'
        write_whole(path, json.dumps(manifest, indent=1).encode())
        found = manifest['findings']
        if refusals := [f for f in found if f['level'] == 'refusal']:
            why = '{where}: {what}'.format(**refusals[0])
            raise SpecError(f'the preflight of {name} refuses it ({path}): {why}')
        concerned = dict.fromkeys(f['where'] for f in found if f['level'] == 'warning')
        summary = (
            f'warnings about {", ".join(concerned)}' if concerned else 'no warnings'
        )
        summary = f'Preflight of {name} beside {baseline}: {summary} ({path})'
        checked[name] = {'id': manifest['id'], 'summary': summary}
    return checked
