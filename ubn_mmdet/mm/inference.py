"""Times the inference of detectors, as trained and folded, with one norm and another."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ..bench.tables import FOLDED
from ..bench.timing import time_interleaved
from .deploy import example, fold_detector

NORMS: dict[str, dict[str, Any]] = {
    'BN': {'type': 'BN'},
    'UBN': {'type': 'UBN'},
    'UBN k=1 at rest': {
        'type': 'UBN',
        'kernel_size': 1,
        'centering': False,
        'scaling': None,
    },
    'UBN k=3 at rest': {
        'type': 'UBN',
        'initial_weight': 0,
        'initial_spatial': 'kaiming',
        'centering': False,
        'scaling': None,
    },
}


def time_inference(
    config: str | Path, size: tuple[int, int], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of a forward pass for one image, of each norm and, where it folds, folded.

    Weights are random. What is done with the last boxes and masks is left out.

    Args:
        config: Of a detector whose backbone has norm layers.
        size: Height and width of the image.
        device: Where to.
        repeats: Timed passes of each, in turns.
    """
    register_all_modules()
    runs = {}
    for name, norm_cfg in NORMS.items():
        runs[name] = _pass(config, norm_cfg, size, device, folds=False)
        if name != 'UBN':  # as if it had learnt to centre and to scale
            runs[name + FOLDED] = _pass(config, norm_cfg, size, device, folds=True)
    return time_interleaved(runs, repeats)


def _pass(
    config: str | Path,
    norm_cfg: Mapping[str, Any],
    size: tuple[int, int],
    device: torch.device,
    folds: bool,
) -> Callable[[], None]:
    cfg = Config.fromfile(config)
    cfg.model.backbone.norm_cfg = dict(norm_cfg)
    torch.manual_seed(0)
    model = MODELS.build(deepcopy(cfg.model)).to(device).eval()
    image, sample = example(model, size)
    if folds:
        fold_detector(model)

    @torch.no_grad()
    def run() -> None:
        model(image, [sample], mode='tensor')
        if device.type == 'cuda':
            torch.cuda.synchronize()

    return run
