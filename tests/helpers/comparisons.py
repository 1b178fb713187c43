"""A comparison that is small enough to be run."""

import os
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.comparison.spec import Comparison
from ubn_mmdet.comparison.training.configs import open_data, resolve
from ubn_mmdet.data.shapes import make_shapes

FIELDS = {
    'name': 'tiny',
    'data': 'shapes',
    'detector': 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
    'image_size': 64,
    'epochs': 1,
    'batch_size': 2,
    'groups': [{'norms': ['BN', 'UBN'], 'seeds': [3]}],
    # Every step is in the curves.
    'options': {'default_hooks.logger.interval': 1, 'log_processor.window_size': 1},
}


def few_shapes(folder: Path) -> Path:
    """Six training images and two to validate, made in ``folder``."""
    return make_shapes(folder, num_train=6, num_val=2, image_size=64)


def configs(comparison: Comparison, data: str | os.PathLike) -> dict[str, Config]:
    """The config of each norm; of the last seed if there are several."""
    register_all_modules()
    folder = open_data(data)
    return {
        run.norm.name: resolve(comparison, run, folder) for run in comparison.runs()
    }
