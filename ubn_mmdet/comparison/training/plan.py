"""What the runs of a comparison are, with all that they are recognised by."""

import contextlib
import io
import warnings
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config

from ..spec import Comparison, Run
from .configs import (
    config_hash,
    data_hash,
    open_data,
    preset,
    resolve,
    shared_config,
)
from .preflight import check_norms


def make_plan(comparison: Comparison, data: str, work_dir: str) -> dict:
    """``{'folder', 'setting_hash', 'runs': [{'config_hash', 'settings'}], 'notes'}``.

    Runs are in the order of ``Comparison.runs``. Notes are lines for the user. What a
    preflight has found is below ``work_dir``.

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
    folder = open_data(comparison, data, work_dir)
    data_is = data_hash(folder)

    def hash_of(cfg: Config) -> str:
        return config_hash(cfg, folder, data_is, comparison.processes)

    # Before the preflight, which takes longer: weights that are missing are named here.
    setting_hash = hash_of(shared_config(comparison, folder))
    hashes = [hash_of(resolve(comparison, run, folder)) for run in comparison.runs()]
    checked = check_norms(comparison, folder, Path(work_dir) / 'preflight')

    def settings(run: Run) -> dict:
        """What a result says of them."""
        return {
            'comparison': comparison.name,
            'detector': comparison.detector_name(),
            'norm': run.norm.name,
            'norm_cfg': preset(run.norm.preset),
            'options': {**comparison.options, **run.norm.options},
            'epochs': comparison.epochs,
            'image_size': comparison.image_size,
            'batch_size': comparison.batch_size,
            'processes': comparison.processes,
            'data': Path(data).resolve().name,
            'classes': len(folder.classes),
            'train_images': folder.num_images['train'],
            'val_images': folder.num_images['val'],
            'seed': run.seed,
            'preflight': checked.get(run.norm.name, {}).get('id'),
        }

    return {
        'folder': asdict(folder) | {'root': str(folder.root)},
        'setting_hash': setting_hash,
        'runs': [
            {'config_hash': its_hash, 'settings': settings(run)}
            for run, its_hash in zip(comparison.runs(), hashes, strict=True)
        ],
        'notes': [found['summary'] for found in checked.values()],
    }
