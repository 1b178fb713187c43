"""Detectors that do not see the padding of their batches (docs/compatibility.md)."""

import functools
import logging
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers.padding import announces_padding, hide_padding
from ..layers.pipeline import PipelineNorm
from ..ops.padding import padded_images


class PaddingAware(DetDataPreprocessor):
    """MMDetection's data preprocessor, for a detector that does not see padding.

    In the detector's forward, in training and evaluation, the norm layers of this package
    leave padded pixels out of their statistics and write zeros there. Convolutions find
    zeros there, and pooling takes the images alone. The sizes are the ``img_shape`` of the
    data samples. Maps of a RoI head are not of images and stay as they are, as does all in
    a call without samples.

    Pixels that the data pipeline itself has padded (``Pad``) are part of the image.

    Args:
        **common: What ``DetDataPreprocessor`` takes; ``pad_value`` must be 0.

    Raises:
        ValueError: For another ``pad_value``: the first convolution is to see the zeros
            that it sees beyond the border of an image.
        KeyError: In the detector's forward, for samples without ``img_shape``.
    """

    announces_padding = True

    def __init__(self, **common: Any) -> None:
        if common.get('pad_value', 0) != 0:
            raise ValueError(
                f'pad_value must be 0 for PaddingAware, got {common["pad_value"]!r}'
            )
        super().__init__(**common)
        self.has_looked = False


_original = BaseDetector.forward


@functools.wraps(_original)
def _forward(self, inputs, data_samples=None, *args, **kwargs):
    if announces_padding(self) and data_samples:
        return _announced(self, inputs, data_samples, *args, **kwargs)
    return _original(self, inputs, data_samples, *args, **kwargs)


# A graph is for batches of any padding, and would be told nothing of this one's.
@torch.compiler.disable
def _announced(
    detector: Any, inputs: Tensor, data_samples: list, *args: Any, **kwargs: Any
) -> object:
    apart = roi_layers(detector)
    if not detector.data_preprocessor.has_looked:
        detector.data_preprocessor.has_looked = True
        layers = (m for m in detector.modules() if m not in apart)
        if not any(isinstance(layer, PipelineNorm) for layer in layers):
            print_log(
                'PaddingAware: the detector has no norm layer of ubn_mmdet that would '
                'leave padding out. BatchNorm is UBN with all stages off '
                '(docs/compatibility.md).',
                logger='current',
                level=logging.WARNING,
            )
        hide_padding(detector)
    sizes = [_size(sample) for sample in data_samples]
    with padded_images(sizes, inputs.shape[-2:], apart):
        return _original(detector, inputs, data_samples, *args, **kwargs)


def roi_layers(detector: nn.Module) -> set[nn.Module]:
    """The layers whose maps are of regions: there may be as many as there are images."""
    heads = [module for module in detector.modules() if isinstance(module, BaseRoIHead)]
    return {layer for head in heads for layer in head.modules()}


def _size(sample: Any) -> tuple[int, int]:
    shape = sample.metainfo.get('img_shape')
    if shape is None:
        raise KeyError(
            "PaddingAware needs the 'img_shape' of each data sample: name it in the "
            'meta_keys of PackDetInputs'
        )
    return tuple(shape[:2])


BaseDetector.forward = _forward
