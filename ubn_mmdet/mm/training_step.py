"""Times training steps of whole detectors, UBN against BatchNorm."""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper

from ..bench.layers import time_interleaved


def time_training_steps(
    configs: Mapping[str, str | os.PathLike],
    image_size: tuple[int, int],
    images: int,
    device: torch.device,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of a training step of each detector, interleaved.

    All start from random weights and see the same random images and boxes.

    Args:
        configs: Config files by the names of the results.
        image_size: Height and width in pixels.
        images: Batch size.
        device: Where to.
        repeats: Timed steps of each.
    """
    register_all_modules()
    if not MMLogger.check_instance_created('benchmark'):
        # The toolbox would log the initialisation of every parameter.
        MMLogger.get_instance('benchmark', log_level='WARNING')
    runs = {
        name: _step(config, image_size, images, device)
        for name, config in configs.items()
    }
    return time_interleaved(runs, repeats)


def _step(
    config: str | os.PathLike,
    image_size: tuple[int, int],
    images: int,
    device: torch.device,
) -> Callable[[], None]:
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    # Weights of a checkpoint would change no time.
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(deepcopy(cfg.model)).to(device)
    model.init_weights()
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = demo_mm_inputs(
        images,
        [(3, *image_size)] * images,
        num_classes=4,
        with_mask=True,
        device=str(device),
    )

    def step() -> None:
        torch.manual_seed(0)  # the same RoIs are drawn for all
        model.train_step(deepcopy(data), optimizer)
        if device.type == 'cuda':
            torch.cuda.synchronize()

    return step
