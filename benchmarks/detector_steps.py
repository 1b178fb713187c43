"""Detectors with BatchNorm and with what replaces it, and a training step of each.

As in ``layer_steps``, of ``ubn_mmdet`` only public names are used.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from ubn_mmdet import convert_batchnorm

from .costs import saved_bytes
from .layer_steps import BN, BN_3X3, UBN_1, UBN_3
from .quiet import hide_initialisation
from .timing import Step

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
LABELS = 4  # of objects; every detector here has so many classes


class Case(NamedTuple):
    """A detector, and its images: how many, of which height and width in pixels."""

    name: str
    config: str
    images: int
    size: tuple[int, int]

    def __str__(self) -> str:
        """Such as ``'Mask R-CNN R50, 2 images of 320x512'``."""
        return f'{self.name}, {self.images} images of {self.size[0]}x{self.size[1]}'


R50 = Case(
    'Mask R-CNN R50', 'finetune/mask-rcnn_r50-live_fpn_bn_1x_coco.py', 2, (320, 512)
)
R18 = Case(
    'Mask R-CNN R18', 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py', 8, (160, 160)
)
# The work of a two-stage detector's heads depends on what it proposes, which differs from
# norm to norm. Whole steps are those of a detector of one stage.
RETINANET = Case(
    'RetinaNet R50', 'finetune/retinanet_r50-live_fpn_bn_1x_coco.py', 2, (320, 512)
)


def detectors(case: Case, device: torch.device) -> dict[str, Any]:
    """The detector of a case in training, with BatchNorm and with what replaces it."""
    register_all_modules()
    hide_initialisation('benchmark')
    cfg = Config.fromfile(CONFIGS / case.config)
    cfg.model.backbone.init_cfg = None  # weights would change no time
    # Not the twin that merges statistics over ranks, which is a UBN with its stages off.
    cfg.model.backbone.norm_cfg = {'type': 'BN', 'requires_grad': True}
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device).train()
    return {
        BN: model,
        UBN_1: convert_batchnorm(deepcopy(model), kernel_size=1),
        BN_3X3: _replace(deepcopy(model), nn.BatchNorm2d, _with_depthwise),
        UBN_3: convert_batchnorm(deepcopy(model)),
    }


def feature_step(detector: Any, images: torch.Tensor) -> Step:
    """Forward and backward of backbone and neck."""
    with torch.no_grad():
        upstream = [torch.randn_like(level) for level in detector.extract_feat(images)]

    def step() -> None:
        detector.zero_grad(set_to_none=True)
        torch.autograd.backward(detector.extract_feat(images), upstream)

    return step


def whole_step(detector: Any, batch: dict, optim_wrapper: dict) -> Step:
    """A training step with heads, losses and the optimizer."""
    optimizer = build_optim_wrapper(detector, deepcopy(optim_wrapper))
    return lambda: detector.train_step(deepcopy(batch), optimizer)


def feature_steps(case: Case, device: torch.device) -> dict[str, Step]:
    """:func:`feature_step` of each of :func:`detectors`."""
    images = _images(case, device)
    return {
        name: feature_step(detector, images)
        for name, detector in detectors(case, device).items()
    }


def whole_steps(case: Case, device: torch.device) -> dict[str, Step]:
    """:func:`whole_step` of each of :func:`detectors`, all for the same batch."""
    batch = demo_mm_inputs(
        case.images,
        [(3, *case.size)] * case.images,
        num_classes=LABELS,
        device=str(device),
    )
    optim_wrapper = Config.fromfile(CONFIGS / case.config).optim_wrapper
    return {
        name: whole_step(detector, batch, optim_wrapper)
        for name, detector in detectors(case, device).items()
    }


def _images(case: Case, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(case.images, 3, *case.size, generator=generator).to(device)


def feature_memory(case: Case, device: torch.device) -> dict[str, int]:
    """Bytes that backbone and neck of each of :func:`detectors` keep for backward."""
    images = _images(case, device)
    return {
        name: saved_bytes(nn.Sequential(detector.backbone, detector.neck), images)
        for name, detector in detectors(case, device).items()
    }


def _with_depthwise(layer: Any) -> nn.Module:
    channels = layer.num_features
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return nn.Sequential(layer, convolution.to(layer.weight.device))


def _replace(model: nn.Module, kind: type[nn.Module], by: Callable) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, kind):
            model.set_submodule(name, by(layer))
    return model
