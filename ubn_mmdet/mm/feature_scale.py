"""How large a detector's features are: where a neck or head has no norm, it matters."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def feature_scales(detector: Any, images: Tensor) -> dict[str, list[float]]:
    """Standard deviations of what a detector's backbone and neck put out.

    Args:
        detector: A detector of MMDetection. In training mode its norm layers take the
            statistics of ``images``, and their running statistics move.
        images: Normalised, ``(N, 3, H, W)``.

    Returns:
        ``{'backbone': [...], 'neck': [...]}``, a number for each level; without a neck
        there is no such entry.
    """
    levels = detector.backbone(images)
    scales = {'backbone': [float(level.std()) for level in levels]}
    if detector.with_neck:
        scales['neck'] = [float(level.std()) for level in detector.neck(levels)]
    return scales
