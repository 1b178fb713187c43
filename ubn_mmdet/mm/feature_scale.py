"""How large a detector's features are: where a neck or head has no norm, it matters."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from .quiet import hide_initialisation

SUFFIXES = ('.jpg', '.jpeg', '.png')


def feature_scale(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    size: int = 160,
    images: int = 4,
    folder: str | os.PathLike | None = None,
    options: Mapping[str, object] | None = None,
) -> dict[str, list[float]]:
    """Standard deviations of what backbone and neck put out.

    Args:
        config: Of a detector.
        checkpoint: Its weights, or those of a classifier with its backbone; None for a
            fresh detector in training, of seed 0.
        size: Height and width in pixels.
        images: Batch size.
        folder: Of images, also in folders below; as many as a batch has are taken, evenly
            spread over all, and prepared by the detector's preprocessor. None for noise.
        options: Settings of the config to override.

    Returns:
        ``{'backbone': [...], 'neck': [...]}``, a number a level; no neck, no entry, nor for
        the weights of a classifier.

    Raises:
        ValueError: If the folder has fewer images than are wanted.
        RuntimeError: If the weights are not those of the config.
    """
    register_all_modules()
    hide_initialisation('feature_scale')
    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(options or {}))
    if checkpoint is not None:
        cfg.model.backbone.init_cfg = None
    x = torch.randn(images, 3, size, size)  # always: fresh weights are drawn behind it
    read = None if folder is None else _read(Path(folder), images, size)
    model = MODELS.build(cfg.model)
    has_neck = model.with_neck
    if checkpoint is None:
        model.init_weights()
        model.train()
    else:
        has_neck &= _load(model, str(checkpoint))
        model.eval()
    with torch.no_grad():
        if read is not None:
            x = model.data_preprocessor({'inputs': read})['inputs']
        levels = model.backbone(x)
        scales = {'backbone': [float(level.std()) for level in levels]}
        if has_neck:
            scales['neck'] = [float(level.std()) for level in model.neck(levels)]
    return scales


def _read(folder: Path, count: int, size: int) -> list[Tensor]:
    """As a detector's preprocessor takes them: ``(3, size, size)`` uint8 each."""
    paths = sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
    if len(paths) < count:
        raise ValueError(f'{folder} has {len(paths)} images, {count} are wanted')
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    read = (mmcv.imresize(mmcv.imread(path), (size, size)) for path in chosen)
    return [torch.from_numpy(image).permute(2, 0, 1) for image in read]


def _load(model: Any, checkpoint: str) -> bool:
    """Load the weights; whether they are a whole detector's."""
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    state = content.get('state_dict', content)
    # Beside the backbone a classifier has a head alone.
    if all(key.startswith(('backbone.', 'head.')) for key in state):
        of_backbone = [key for key in state if key.startswith('backbone.')]
        model.backbone.load_state_dict(
            {key.removeprefix('backbone.'): state[key] for key in of_backbone}
        )
        return False
    model.load_state_dict(state)
    return True
