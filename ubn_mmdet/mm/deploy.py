"""Folds the norm layers of MMDetection's detectors, live or in checkpoints."""

import contextlib
import os
from copy import deepcopy
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..deploy import FoldReport, fold
from ..deploy.fold import CONVOLUTIONS
from .config_nodes import all_nodes

# Divisible by the strides of feature pyramids, with more positions than a DETR's queries.
SIZE = 256, 256


def fold_detector(model: nn.Module, size: tuple[int, int] = SIZE) -> FoldReport:
    """Fold the norm layers of a detector into convolutions, in place.

    See :func:`ubn_mmdet.deploy.fold`. The detector is run on one image of noise, with all
    its thresholds of scores at 0, so that heads that follow detections are reached.

    Args:
        model: A detector of MMDetection, in evaluation mode.
        size: Height and width of the image.

    Returns:
        What was done with which layer, to print.

    Raises:
        ValueError: As :func:`ubn_mmdet.deploy.fold`.
    """
    image, sample = example(model, size)

    def run() -> object:
        settings = [getattr(module, 'test_cfg', None) for module in model.modules()]
        with contextlib.ExitStack() as restored:
            for node in all_nodes(settings):
                if 'score_thr' in node:
                    before = node['score_thr']
                    restored.callback(node.__setitem__, 'score_thr', before)
                    node['score_thr'] = 0.0
            return model(image, [sample], mode='predict')

    return fold(model, run, (*CONVOLUTIONS, Conv2d))


def example(
    model: nn.Module, size: tuple[int, int] = SIZE
) -> tuple[Tensor, DetDataSample]:
    """One image of normalised noise, ``(1, 3, H, W)``, and what a detector asks of it."""
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *size, generator=generator).to(like)
    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    metainfo = {
        'img_id': 0,
        'scale_factor': (1.0, 1.0),
        'border': (0, size[0], 0, size[1]),  # for CenterNet
        **dict.fromkeys(shapes, size),
    }
    sample = DetDataSample(metainfo=metainfo)
    if isinstance(model, TwoStageDetector) and not model.with_rpn:
        height, width = size
        boxes = image.new_tensor([[0, 0, width, height]])
        sample.proposals = InstanceData(bboxes=boxes)
    return image, sample


def fold_checkpoint(
    config: str | os.PathLike, checkpoint: dict[str, Any]
) -> tuple[Config, dict[str, Any], FoldReport]:
    """A checkpoint with folded norm layers, and a config that loads it.

    Args:
        config: Of the detector.
        checkpoint: With its ``state_dict``.

    Raises:
        RuntimeError: If the weights are not those of the config's detector.
    """
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(deepcopy(cfg.model))
        model.load_state_dict(checkpoint['state_dict'])
        model.eval()
        report = fold_detector(model)
    kind = cfg.model.type
    if isinstance(kind, type):
        kind = f'{kind.__module__}.{kind.__qualname__}'
    cfg.model = cfg.model.to_dict() | {
        'type': 'FoldedDetector',
        'detector': kind if '.' in kind else f'mmdet.{kind}',
        'folds': [one._asdict() for one in report.folds],
    }
    imports = cfg.get('custom_imports') or {}
    names = imports.get('imports', [])
    names = [names] if isinstance(names, str) else names
    names = [*dict.fromkeys([*names, 'ubn_mmdet'])]
    cfg.custom_imports = {'imports': names, 'allow_failed_imports': False}
    folded = checkpoint | {'state_dict': model.state_dict()}
    if 'meta' in checkpoint:  # where DetInferencer finds the config of lone weights
        folded['meta'] = checkpoint['meta'] | {'cfg': cfg.pretty_text}
    return cfg, folded, report
