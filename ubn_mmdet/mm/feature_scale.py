"""How large a detector's features are: where a neck or head has no norm, it matters."""

import os

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from .quiet import hide_initialisation


def feature_scale(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    size: int = 160,
    images: int = 4,
) -> dict[str, list[float]]:
    """Standard deviations of what backbone and neck put out for images of noise.

    Args:
        config: Of a detector.
        checkpoint: Its weights; None for a fresh one in training, of seed 0.
        size: Height and width in pixels.
        images: Batch size.

    Returns:
        ``{'backbone': [...], 'neck': [...]}``, a number a level; no neck, no entry.
    """
    register_all_modules()
    hide_initialisation('feature_scale')
    torch.manual_seed(0)
    noise = torch.randn(images, 3, size, size)
    cfg = Config.fromfile(config)
    if checkpoint is not None:
        cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    if checkpoint is None:
        model.init_weights()
        model.train()
    else:
        load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
        model.eval()
    with torch.no_grad():
        levels = model.backbone(noise)
        scales = {'backbone': [float(level.std()) for level in levels]}
        if model.with_neck:
            scales['neck'] = [float(level.std()) for level in model.neck(levels)]
    return scales
