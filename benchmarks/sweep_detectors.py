"""MMDetection's detectors, made small: their configs, random batches, float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.testing._utils import demo_mm_proposals
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ubn_mmdet.mm.config_nodes import all_nodes

# Where the rule of `families` would take one that a smaller machine cannot train.
CHOSEN = {
    'albu_example': 'mask-rcnn_r50_fpn_albu-1x_coco.py',
    'cascade_rpn': 'cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    'dcn': 'faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'dcnv2': 'faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    'gcnet': 'mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco.py',
    'ld': 'ld_r18-gflv1-r101_fpn_1x_coco.py',
    'retinanet': 'retinanet_r50-caffe_fpn_1x_coco.py',
    'rtmdet': 'rtmdet-ins_tiny_8xb32-300e_coco.py',
    'yolo': 'yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'yolox': 'yolox_nano_8xb8-300e_coco.py',
}
# Upper limits, wherever a config has such a key. Results stay few, and none is left out
# for its score: an untrained detector's are low.
LIMITS = {'nms_pre': 100, 'max_per_img': 20, 'max_num': 100, 'num': 32}
NO_THRESHOLD = ('score_thr', 'mask_score_thr')
# What would be downloaded, or changes the images at random.
REMOVED = ('pretrained', 'teacher_ckpt', 'batch_augments', 'lang_model_ckpt')
OBJECTS = 3  # in an image
# HTC's and Panoptic FPN's heads of stuff expect its map at their own stride.
SEMANTIC_STRIDE = {'htc': 8, 'scnet': 8, 'detectors': 8, 'panoptic_fpn': 4}
OPERATORS = import_module('mmcv._ext')


def families(folder: Path) -> dict[str, Path]:
    """One config of every subfolder that has any, by the subfolder's name.

    A ResNet-18 or ResNet-50 goes before others, then the shortest name.
    """

    def preference(path: Path) -> tuple:
        name = path.name
        return 'r18' not in name and 'r50' not in name, 'tta' in name, len(name), name

    chosen = {}
    for family in sorted(path for path in folder.iterdir() if path.name != '_base_'):
        if files := sorted(family.glob('*.py'), key=preference):
            chosen[family.name] = family / CHOSEN.get(family.name, files[0].name)
    return chosen


def small_model(path: Path) -> ConfigDict | None:
    """The model of a config without downloads and with few proposals, or None."""
    model = Config.fromfile(path).get('model')
    if model is None:
        return None
    root = path.parents[2]
    for node in all_nodes(model):
        for key, value in list(node.items()):
            if key in REMOVED or (key == 'init_cfg' and 'Pretrained' in str(value)):
                node[key] = None
            elif key in NO_THRESHOLD:
                node[key] = 0.0
            elif key in LIMITS and isinstance(value, int):
                node[key] = min(value, LIMITS[key])
            elif key == 'teacher_config':  # relative to a checkout
                teacher = Config.fromfile(root / value)
                node[key] = ConfigDict(model=teacher.model.to_dict())
    return model


def num_classes(model: ConfigDict) -> int:
    """The smallest number of classes that a head of ``model`` has."""
    found = [node.get('num_classes') for node in all_nodes(model)]
    return min((n for n in found if isinstance(n, int) and n > 0), default=80)


def random_batch(
    family: str, model: nn.Module, classes: int, images: int, size: int
) -> dict:
    """A batch as MMDetection's data loaders give it, the same in every call.

    Args:
        family: Folder of the config.
        model: The detector; one without RPN is given proposals.
        classes: Labels are below this.
        images: Batch size.
        size: Height and width in pixels, before padding.
    """
    np.random.seed(0)
    shapes = [(3, size, size)] * images
    batch = demo_mm_inputs(
        images,
        shapes,
        num_items=[OBJECTS] * images,
        num_classes=min(max(classes, 2), 255),  # MMDetection draws bytes
        sem_seg_output_strides=SEMANTIC_STRIDE.get(family, 1),
        with_mask=True,
        with_semantic=True,
    )
    alone = hasattr(model, 'roi_head') and not getattr(model, 'with_rpn', False)
    proposals = demo_mm_proposals(shapes, 20) if alone else None
    for i, sample in enumerate(batch['data_samples']):
        sample.gt_instances.labels %= classes
        # Boxes of some size: a detector may drop smaller ones.
        boxes = sample.gt_instances.bboxes
        boxes[:, :2] = boxes[:, :2].clamp(max=0.6 * size)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.3 * size)
        del sample.ignored_instances
        if proposals is not None:
            sample.proposals = proposals[i]
    return batch


def prepared(model: Any, batch: dict, training: bool, dtype: torch.dtype) -> dict:
    """What ``model`` itself is called with; floating-point boxes in ``dtype``."""
    data = model.data_preprocessor(deepcopy(batch), training)
    data['inputs'] = data['inputs'].to(dtype)
    for sample in data['data_samples']:
        for instances in (sample.gt_instances, sample.get('proposals')):
            for key, value in instances.items() if instances is not None else ():
                if torch.is_tensor(value) and value.is_floating_point():
                    instances[key] = value.to(dtype)
    return data


@contextmanager
def double_precision() -> Iterator[None]:
    """A context in which tensors are float64 where code asks for float32, or nothing.

    On 1×1 maps two images are two values per channel: BatchNorm divides by a variance
    that is next to nothing, and float32's rounding becomes as large as the result.
    """
    default, nms = torch.get_default_dtype(), OPERATORS.nms

    def single_nms(boxes: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """MMCV's suppression knows float32 alone."""
        single = 'torch.FloatTensor'  # as a word: the mode leaves it alone
        return nms(boxes.type(single), scores.type(single), **options)

    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(OPERATORS, 'nms', single_nms), _Double():
            yield
    finally:
        torch.set_default_dtype(default)


class _Double(TorchFunctionMode):
    """Wherever code asks for float32, it gets float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        wide = [_wider(arg) for arg in args]
        return func(*wide, **{key: _wider(arg) for key, arg in (kwargs or {}).items()})


def _wider(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
