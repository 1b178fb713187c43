"""Builds a detector with the structure of a folded one, for its config to load."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..deploy.structure import Fold, restructure


@MODELS.register_module()
def FoldedDetector(
    detector: str, folds: Sequence[dict[str, Any]], **settings: Any
) -> nn.Module:
    """A detector with convolutions in the place of norm layers, to load its weights into.

    ``tools/convert_checkpoint.py --to deploy`` writes configs with this type.

    Args:
        detector: The type of the detector itself, such as ``'mmdet.MaskRCNN'``.
        folds: What becomes of each norm layer: :class:`~ubn_mmdet.deploy.Fold` by name.
        **settings: Of the detector.

    Raises:
        ValueError: If the detector has no module of a name in ``folds``.
    """
    model = MODELS.build({'type': detector, **settings})
    model.eval()
    restructure(model, [Fold(**one) for one in folds])
    return model


def folded_settings(settings: dict[str, Any], folds: Sequence[Fold]) -> dict[str, Any]:
    """The ``model`` of a config for :func:`FoldedDetector`, from the detector's own."""
    kind = settings['type']
    return settings | {
        'type': 'FoldedDetector',
        'detector': kind if '.' in kind else f'mmdet.{kind}',
        'folds': [
            one._asdict() | {'convolutions': [*one.convolutions]} for one in folds
        ],
    }
