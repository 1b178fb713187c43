"""Input normalization learnt with the model, in place of the data set's mean and std.

Registered when imported: ``custom_imports=dict(imports=['ubn_mmdet.mm.preprocessor'])``.
Not with the package: it needs MMDetection's models, which take seconds to import.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor

from ..layers import InitBN

CHANNELS = 3
INITIAL_WEIGHT = 0.1 * 0.58  # that of InitBN times the deviation of a ReLU's output


@MODELS.register_module()
class InputBN(DetDataPreprocessor):
    """MMDetection's data preprocessor with a BatchNorm on the images (arXiv 2110.13989).

    In training, images are normalised with mean and variance of the batch (of all ranks),
    in evaluation with the running ones. ``weight`` is learnt, ``bias`` stays 0. Images are
    normalised before they are padded: padded pixels are in no statistics and have the
    value ``pad_value``, 0, behind it. Pixels that the data pipeline has padded itself
    (``Pad``) are part of the image.

    Args:
        initial_weight: What ``weight`` starts from.
        requires_grad: Whether ``weight`` is learnt.
        eps: Added to the variance, in squared units of the images (0 to 255).
        momentum: Step of the running statistics; None for the average over all batches.
        sync: Whether, in training, statistics are those of the images of all ranks.
        **common: What else ``DetDataPreprocessor`` takes, but ``mean`` and ``std``. It
            reverses the channels, if asked to, after the layer.

    The layer is ``norm``, an ``InitBN`` of 3 channels: its state is in the model's
    checkpoints as ``data_preprocessor.norm.*``. Statistics move where both the model is in
    training mode and ``forward`` is told so.

    Raises:
        TypeError: For ``mean`` or ``std``.
        RuntimeError: In ``forward``, for an image of other than 3 channels.
    """

    def __init__(
        self,
        initial_weight: float = INITIAL_WEIGHT,
        requires_grad: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = True,
        **common: Any,
    ) -> None:
        for name in ('mean', 'std'):
            if common.pop(name, None) is not None:
                raise TypeError(
                    f'InputBN has no {name}: it normalises with statistics of its own. '
                    f'Over a base config, set {name}=None'
                )
        super().__init__(**common)
        self.norm = InitBN(
            CHANNELS,
            initial_weight=initial_weight,
            eps=eps,
            momentum=momentum,
            sync=sync,
        )
        for name, parameter in self.norm.named_parameters():
            parameter.requires_grad_(requires_grad and name == 'weight')

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise, pad and stack; see ``DetDataPreprocessor.forward``."""
        data = self.cast_data(data)
        trains = self.norm.training
        self.norm.train(trains and training)
        try:
            images = self._normalize(data['inputs'])
        finally:
            self.norm.train(trains)
        return super().forward(data | {'inputs': images}, training)

    def _normalize(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(images, Tensor):
            return self.norm(images.float())
        # All pixels of the batch in a row: images differ in size.
        pixels = torch.cat([image.flatten(1) for image in images], dim=1).float()
        normalized = self.norm(pixels[None, :, None])[0, :, 0]
        parts = normalized.split([image[0].numel() for image in images], dim=1)
        return [
            part.reshape(image.shape) for part, image in zip(parts, images, strict=True)
        ]
