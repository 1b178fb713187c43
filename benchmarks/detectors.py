"""What UBN costs in a detector's training: time and memory.

The same detector with each norm, interleaved, with random weights, images and boxes.

    python -m benchmarks.detectors
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from ubn_mmdet import convert_batchnorm
from ubn_mmdet.measuring import BN, UBN_1, UBN_3, Step, saved_bytes, time_in_turns

from . import reporting
from .layers import BN_3X3, batchnorm_3x3

LABELS = 4  # of objects; every detector here has so many classes
RATIOS = (UBN_1, BN), (UBN_3, BN), (UBN_3, BN_3X3)


class Case(NamedTuple):
    """A detector's config, and its images: how many, of which height and width."""

    config: str
    images: int
    size: tuple[int, int]


FEATURES = {
    'Mask R-CNN R50, 2 images of 320x512': Case(
        'finetune/mask-rcnn_r50-live_fpn_bn_1x_coco.py', 2, (320, 512)
    ),
    'Mask R-CNN R18, 8 images of 160x160': Case(
        'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py', 8, (160, 160)
    ),
}
# The work of a two-stage detector's heads depends on what it proposes, which differs from
# norm to norm. Whole steps are those of a detector of one stage.
WHOLE = {
    'RetinaNet R50, 2 images of 320x512': Case(
        'finetune/retinanet_r50-live_fpn_bn_1x_coco.py', 2, (320, 512)
    )
}


def read(case: Case) -> Config:
    """A case's config."""
    return Config.fromfile(reporting.ROOT / 'configs' / case.config)


def detectors(case: Case, device: torch.device) -> dict[str, Any]:
    """The detector of a case in training, with BatchNorm and with what replaces it."""
    register_all_modules()
    cfg = read(case)
    cfg.model.backbone.init_cfg = None  # weights would change no time
    # Not the twin that merges statistics over ranks, which is a UBN with its stages off.
    cfg.model.backbone.norm_cfg = {'type': 'BN', 'requires_grad': True}
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    depthwise = deepcopy(model)
    for name, layer in list(depthwise.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            depthwise.set_submodule(name, batchnorm_3x3(layer.num_features))
    found = {
        BN: model,
        UBN_1: convert_batchnorm(deepcopy(model), kernel_size=1),
        BN_3X3: depthwise,
        UBN_3: convert_batchnorm(deepcopy(model)),
    }
    return {name: detector.to(device) for name, detector in found.items()}


def feature_step(detector: Any, case: Case, device: torch.device) -> Step:
    """Forward and backward of backbone and neck."""
    images = torch.randn(case.images, 3, *case.size, device=device)
    with torch.no_grad():
        upstream = [torch.randn_like(x) for x in detector.extract_feat(images)]

    def step() -> None:
        detector.zero_grad()
        torch.autograd.backward(detector.extract_feat(images), upstream)

    return step


def whole_step(detector: Any, case: Case, device: torch.device) -> Step:
    """A training step with heads, losses and optimizer; the same batch in every call."""
    sizes = [(3, *case.size)] * case.images
    batch = demo_mm_inputs(case.images, sizes, num_classes=LABELS, device=str(device))
    optimizer = build_optim_wrapper(detector, read(case).optim_wrapper)
    return lambda: detector.train_step(deepcopy(batch), optimizer)


def feature_memory(case: Case, device: torch.device) -> dict[str, int]:
    """Bytes that backbone and neck of each of :func:`detectors` keep for backward."""
    images = torch.randn(case.images, 3, *case.size, device=device)
    return {
        name: saved_bytes(nn.Sequential(detector.backbone, detector.neck), images)
        for name, detector in detectors(case, device).items()
    }


def measure(results: reporting.Results, turns: int, device: torch.device) -> None:
    """Seconds of each turn, and bytes that backbone and neck keep for backward."""

    def time(step: Callable[..., Step], case: Case) -> dict[str, list[float]]:
        found = detectors(case, device)
        steps = {name: step(model, case, device) for name, model in found.items()}
        return time_in_turns(steps, turns)

    for name, case in FEATURES.items():
        results.measure(
            'seconds', f'{name}: backbone and neck', time, feature_step, case
        )
        results.measure('saved bytes', name, feature_memory, case, device)
    for name, case in WHOLE.items():
        results.measure('seconds', f'{name}: whole step', time, whole_step, case)


def tables(rows: reporting.Rows) -> dict[str, str]:
    """The results as Markdown tables."""
    title, saved = 'backbone and neck keep for backward, MB', rows['saved bytes']
    return {
        'step': reporting.ratio_table(rows['seconds'], RATIOS, BN),
        'memory': reporting.value_table(title, saved, unit=1e6),
    }


if __name__ == '__main__':
    args = reporting.parse_args('detectors', __doc__, turns=15)
    reporting.run(args, measure, tables)
