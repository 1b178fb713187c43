"""Random images with random objects, for any detector."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.testing._utils import demo_mm_proposals
from torch import nn

OBJECTS = 3
# HTC's and Panoptic FPN's heads of stuff expect its map at their own stride.
SEMANTIC_STRIDE = {'htc': 8, 'scnet': 8, 'detectors': 8, 'panoptic_fpn': 4}


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
    needs_proposals = hasattr(model, 'roi_head') and not getattr(
        model, 'with_rpn', False
    )
    proposals = demo_mm_proposals(shapes, 20) if needs_proposals else None
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
