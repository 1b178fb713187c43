"""Times training steps of one detector with several norms, everything else equal."""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..bench.timing import time_interleaved
from ..layers import convert_batchnorm
from ..layers.replace import replace_submodule
from .quiet import hide_initialisation

PROPOSALS = 1000  # an image, as in training on COCO


def time_training_steps(
    config: str | os.PathLike,
    image_size: tuple[int, int],
    images: int,
    device: torch.device,
    repeats: int,
) -> dict[str, dict[str, list[float]]]:
    """Seconds of training steps of a detector, by its part and by its norm, interleaved.

    All see the same random images and boxes. The heads' work depends on what a detector
    proposes, which no two share: so every detector gets the same proposals in place of
    its own, and draws the same samples of them. What its own cost to find is in the time.

    Args:
        config: Of a detector with BatchNorm.
        image_size: Height and width in pixels.
        images: Batch size.
        device: Where to.
        repeats: Timed steps of each.

    Returns:
        ``'backbone and neck'``, forward and backward alone, and ``'whole step'``, with
        heads, losses and optimizer: seconds of each of ``repeats`` turns by norm.
    """
    register_all_modules()
    hide_initialisation('benchmark')
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    # Weights of a checkpoint would change no time.
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    _replace(model, nn.SyncBatchNorm, _without_sync)
    model.init_weights()
    model.to(device).train()
    data = demo_mm_inputs(
        images,
        [(3, *image_size)] * images,
        num_classes=4,
        with_mask=True,
        device=str(device),
    )
    if model.with_rpn:
        _propose(model.rpn_head, _proposals(images, image_size, device))
    detectors = {name: swap(deepcopy(model)) for name, swap in NORMS.items()}
    parts: dict[str, Mapping[str, Callable[[], None]]] = {
        'backbone and neck': {
            name: _features_step(detector, data) for name, detector in detectors.items()
        },
        'whole step': {
            name: _whole_step(detector, data, cfg.optim_wrapper)
            for name, detector in detectors.items()
        },
    }
    return {part: time_interleaved(runs, repeats) for part, runs in parts.items()}


def _with_depthwise(model: nn.Module) -> nn.Module:
    """Put a depthwise convolution behind every BatchNorm, with nothing fused."""

    def pair(layer: Any) -> nn.Module:
        channels = layer.num_features
        convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        return nn.Sequential(layer, convolution.to(layer.weight.device))

    return _replace(model, nn.BatchNorm2d, pair)


def _without_sync(layer: Any) -> nn.Module:
    """PyTorch's SyncBatchNorm trains on a GPU alone, and one process merges nothing."""
    plain = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    return plain.to(layer.weight.device)


def _replace(
    model: nn.Module, kind: type[nn.Module], by: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, kind):
            replace_submodule(model, name, by(layer))
    return model


# The second and the last differ from those before them by the stages, the third and the
# last from the first two by the depthwise kernel.
NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    'BatchNorm': lambda model: model,
    'UBN k=1': lambda model: convert_batchnorm(model, kernel_size=1),
    'BatchNorm + depthwise 3x3': _with_depthwise,
    'UBN k=3': convert_batchnorm,
}


def _proposals(
    images: int, image_size: tuple[int, int], device: torch.device
) -> list[InstanceData]:
    """Random boxes, the same whenever they are asked for."""
    generator = torch.Generator().manual_seed(0)
    height, width = image_size
    found = []
    for _ in range(images):
        size = torch.tensor([width, height]) / 2
        corner = torch.rand(PROPOSALS, 2, generator=generator) * size
        extent = torch.rand(PROPOSALS, 2, generator=generator) * size + 1
        boxes = torch.cat([corner, corner + extent], dim=1)
        found.append(
            InstanceData(
                bboxes=boxes.to(device),
                scores=torch.ones(PROPOSALS, device=device),
                labels=torch.zeros(PROPOSALS, dtype=torch.long, device=device),
            )
        )
    return found


def _propose(rpn_head: nn.Module, proposals: list[InstanceData]) -> None:
    """Make a head of this kind answer with ``proposals``, after its usual work."""

    class Proposing(type(rpn_head)):  # type: ignore[misc]
        def loss_and_predict(self, *args: Any, **kwargs: Any) -> tuple:
            losses, _ = super().loss_and_predict(*args, **kwargs)
            return losses, deepcopy(proposals)

    rpn_head.__class__ = Proposing


def _features_step(detector: Any, data: dict) -> Callable[[], None]:
    inputs = detector.data_preprocessor(deepcopy(data), training=True)['inputs']
    with torch.no_grad():
        upstream: list[Tensor] = [
            torch.randn_like(level) for level in detector.extract_feat(inputs)
        ]

    def step() -> None:
        detector.zero_grad(set_to_none=True)
        torch.autograd.backward(detector.extract_feat(inputs), upstream)
        _wait(inputs.device)

    return step


def _whole_step(detector: Any, data: dict, optim_wrapper: dict) -> Callable:
    optimizer = build_optim_wrapper(detector, deepcopy(optim_wrapper))
    device = next(detector.parameters()).device

    def step() -> None:
        torch.manual_seed(0)  # the same samples are drawn for all
        detector.train_step(deepcopy(data), optimizer)
        _wait(device)

    return step


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()
