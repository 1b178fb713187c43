"""How large a detector's features are: where a neck or head has no norm, it matters."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor
from torch.nn.functional import interpolate

from ..layers.checks import check_count, check_number
from ..layers.precise import kept_modes
from .members import unwrapped

LIMIT = 3.0  # how many times larger features may be before they are suspect


class FeatureScaleError(RuntimeError):
    """Features are much larger than where the backbone was pre-trained."""


@HOOKS.register_module()
class FeatureScaleHook(Hook):
    """Stops a run whose features are much larger than at the size of its pre-training.

    With constant statistics, nothing after a depthwise kernel corrects the scale of maps
    that have less border than those in training. Before the first step of a run that is not
    resumed, the hook takes the step's images as they are and shrunk to the size of
    pre-training, and compares the standard deviations of the backbone's levels, in
    evaluation mode. The mean over ranks counts.

    Args:
        limit: How many times larger the features of a level may be, above 1. In small
            experiments BatchNorm's last level grew 1.3-fold at most; where a level grew
            3.8-fold or more, training diverged.
        size: Of the shorter side in pre-training, in pixels. Images that are no larger
            are compared with themselves.

    Raises:
        FeatureScaleError: If a level grows beyond the limit.
        TypeError: For an argument of the wrong type.
        ValueError: For an argument out of range.
    """

    def __init__(self, limit: float = LIMIT, size: int = 224) -> None:
        check_number(
            'limit', limit, lambda v: 1 < v < math.inf, 'a finite number above 1'
        )
        check_count('size', size)
        self.limit = limit
        self.size = size
        self._is_done = False

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Look at the first batch."""
        if self._is_done or runner.iter:
            return
        self._is_done = True
        model = unwrapped(runner)
        images = model.data_preprocessor({'inputs': data_batch['inputs']})['inputs']
        shorter = min(images.shape[2:])
        # No larger than they are: on every rank, for all are to meet below.
        size = min(self.size, shorter)
        small = interpolate(
            images, scale_factor=size / shorter, mode='bilinear', antialias=True
        )
        with kept_modes(model):
            model.eval()
            scales = [feature_scales(model, x)['backbone'] for x in (small, images)]
        of_ranks = torch.tensor(scales, device=images.device)
        all_reduce(of_ranks, 'mean')
        small_scales, large_scales = of_ranks.tolist()
        growth = float((of_ranks[1] / of_ranks[0]).max())
        print_log(
            f"standard deviations of the backbone's levels: {_text(small_scales)} at "
            f'{size} pixels, {_text(large_scales)} at {shorter}',
            'current',
        )
        if not growth <= self.limit:  # nan counts as too large
            raise FeatureScaleError(
                f'features of the backbone grow {growth:.1f}-fold from images of '
                f'{size} pixels, as in pre-training, to those of {shorter}; the '
                f'limit is {self.limit}. A detector trained with these statistics held is '
                'likely to diverge. Pre-train at a larger size, or let the norm layers '
                'take the statistics of their batches (norm_eval=False), with each norm '
                'of a comparison. FeatureScaleHook(limit=...) sets the limit'
            )


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


def _text(scales: list[float]) -> str:
    return ', '.join(f'{scale:.2f}' for scale in scales)
