"""Registers the norm layers and hooks when imported, and guards the layers.

In MMEngine's root registry: a class registered in MMDetection's own resolves only under
the scope ``mmdet``.
"""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..deploy.structure import Fold, restructure
from ..layers import FAMILY, CentralizedConv2d
from . import guard, optim, start_hooks  # noqa: F401


@MODELS.register_module(name='PaddingAware')
def padding_aware(**settings: Any) -> nn.Module:
    """Build a :class:`~ubn_mmdet.mm.padding_aware.PaddingAware`."""
    from .padding_aware import PaddingAware  # MMDetection's models load slowly

    return PaddingAware(**settings)


@MODELS.register_module(name='FoldedDetector')
def folded_detector(
    detector: str, folds: Sequence[dict[str, Any]], **settings: Any
) -> nn.Module:
    """Build a detector with convolutions for norm layers, to load its weights into.

    ``tools/convert_checkpoint.py --to deploy`` writes configs with this type.

    Args:
        detector: The type of the detector itself, such as ``'mmdet.MaskRCNN'``.
        folds: What becomes of each norm layer: the fields of a
            :class:`~ubn_mmdet.deploy.Fold`.
        **settings: Of the detector.

    Raises:
        ValueError: If the detector has no module of a name in ``folds``.
    """
    model = MODELS.build({'type': detector, **settings})
    model.eval()
    restructure(model, [Fold(**one) for one in folds])
    return model


for member in FAMILY:
    MODELS.register_module(name=member.__name__, module=member)
MODELS.register_module(module=CentralizedConv2d)
guard.install()
