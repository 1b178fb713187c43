"""One detector with BatchNorm and with another norm that has its weights.

``python -m benchmarks.sweep_compare CONFIG`` prints what :func:`compare` gives for UBN.
"""

import copy
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ubn_mmdet.layers.pipeline import PipelineNorm
from ubn_mmdet.mm.norm_configs import with_norm
from ubn_mmdet.mm.verify_distributed import relative_difference

from .sweep import COMPARED, SAME, verdict
from .sweep_detectors import (
    double_precision,
    num_classes,
    prepared,
    random_batch,
    small_model,
)

IMAGES, SIZES = 2, (64, 160)  # of each, pixels
# What is smaller than this part of the largest tensor is compared with this part of it. A
# bias before a norm has a gradient of zero and gets rounding.
NOTHING = 1e-6
BATCHNORM = {'type': 'BN'}
Outcomes = dict[str, dict[str, Tensor]]  # tensors by name, for each of COMPARED


def compare(path: Path, norm: Mapping[str, Any]) -> dict[str, Any]:
    """How far the detector of a config is from its twin with ``norm``.

    Both have the same random weights, loaded strictly, and see the same images, first as
    the config has it (with ``norm_eval`` and frozen parameters), then with every norm
    layer in training mode and every parameter learning ("live"), then in evaluation.
    In float64, or float32 where the detector's own code or operators refuse that, and on
    small images, or larger ones where it refuses those.

    Args:
        path: A config of MMDetection.
        norm: The norm's config, ``{'type': 'UBN'}``.

    Returns:
        Only ``skipped``, a reason, if there is no model or no BatchNorm in the config or if
        the detector with BatchNorm does not run here. Else ``dtype``; ``size``, height and
        width of the images in pixels; ``swapped`` and ``kept``, numbers of norm layers; and
        the largest differences, relative to the largest value: ``loss``, ``gradient`` and
        ``statistics`` of the live step, ``loss_as_is`` and ``gradient_as_is``, and
        ``prediction``. If they are not those of equals, ``rounding`` has the same
        differences between the detector with BatchNorm and itself with the last digits of
        its norm layers' weights changed: some detectors take the largest of what is nearly
        equal.
    """
    skipped = ''
    for size, dtype in itertools.product(SIZES, (torch.float64, torch.float32)):
        with double_precision() if dtype == torch.float64 else nullcontext():
            try:
                model = small_model(path)
                if model is None:
                    return {'skipped': 'no model in the config'}
                theirs = _build(with_norm(model, BATCHNORM), dtype)
                if not norms(theirs):
                    return {'skipped': 'no BatchNorm in it'}
                weights = copy.deepcopy(theirs.state_dict())
                classes = num_classes(model)
                batch = random_batch(path.parent.name, theirs, classes, IMAGES, size)
                expected = _outcomes(theirs, batch, dtype)
            except Exception as error:
                skipped = sentence(error)
                continue
            del theirs  # of the largest, one fits into memory
            ours = _build(with_norm(model, norm), dtype)
            ours.load_state_dict(weights)
            swapped = sum(isinstance(norm, PipelineNorm) for norm in norms(ours))
            row: dict[str, Any] = {
                'dtype': str(dtype).removeprefix('torch.'),
                'size': size,
                'swapped': swapped,
                'kept': len(norms(ours)) - swapped,
                **_differences(expected, _outcomes(ours, batch, dtype)),
            }
            del ours
            if verdict(row) != SAME:
                again = _build(with_norm(model, BATCHNORM), dtype)
                again.load_state_dict(weights)
                _change_last_digits(again)
                row['rounding'] = _differences(expected, _outcomes(again, batch, dtype))
            return row
    return {'skipped': skipped}


def norms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers, and ours."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def _build(model: ConfigDict, dtype: torch.dtype) -> nn.Module:
    _seed()
    detector = MODELS.build(copy.deepcopy(model))
    detector.init_weights()
    # A start at which every parameter of a norm matters.
    generator = torch.Generator().manual_seed(0)
    for layer in norms(detector):
        for parameter, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -0.2, 0.2)):
            if parameter is not None:
                nn.init.uniform_(parameter, low, high, generator=generator)
    # Not .to(): that of MMDetection's distillers knows devices alone.
    return detector.double() if dtype == torch.float64 else detector.float()


@torch.no_grad()
def _change_last_digits(detector: nn.Module) -> None:
    """Weights of norm layers, up to one unit of their precision."""
    generator = torch.Generator().manual_seed(1)
    for layer in norms(detector):
        if layer.weight is not None:
            noise = 2 * torch.rand(layer.weight.shape, generator=generator) - 1
            eps = torch.finfo(layer.weight.dtype).eps
            layer.weight.mul_(1 + eps * noise.to(layer.weight.dtype))


def _seed() -> None:
    """Detectors draw samples at random, and may ask which iteration it is."""
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):
        hub.update_info(name, 1)
    set_random_seed(0)


def _outcomes(model: nn.Module, batch: dict, dtype: torch.dtype) -> Outcomes:
    """What a detector gives as its config has it, live, and in evaluation."""
    found: Outcomes = {}
    model.train()
    found['loss_as_is'], found['gradient_as_is'] = _step(model, batch, dtype)

    model.requires_grad_(True)
    for layer in norms(model):
        layer.train()
        layer.momentum = 1.0  # the statistics of these images: evaluation stays sane
    found['loss'], found['gradient'] = _step(model, batch, dtype)
    found['statistics'] = {
        f'{i}.{name}': buffer.clone()
        for i, layer in enumerate(norms(model))
        for name, buffer in layer.named_buffers()
        if name in ('running_mean', 'running_var')
    }

    model.eval()
    _seed()
    data = prepared(model, batch, False, dtype)
    with torch.no_grad():
        results = model(**data, mode='predict')
    found['prediction'] = dict(_tensors(results))
    return found


def _step(
    model: Any, batch: dict, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad()
    _seed()
    data = prepared(model, batch, True, dtype)
    total, losses = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {name: torch.as_tensor(loss) for name, loss in losses.items()}, gradients


def _tensors(tree: object, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """The tensors that were predicted, by dotted name."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, BaseDataElement):
        for key, value in tree.items():
            if not key.startswith(('gt_', 'proposals', '_')):
                yield from _tensors(value, f'{name}.{key}')
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from _tensors(value, f'{name}.{i}')
    elif hasattr(tree, 'tensor'):  # boxes
        yield name, tree.tensor


def _differences(expected: Outcomes, found: Outcomes) -> dict[str, float]:
    return {key: difference(expected[key], found[key]) for key in COMPARED}


def difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The largest over the tensors of ``expected``; inf if one is missing or reshaped.

    Norms have parameters of their own: what ``found`` has beyond is left alone.
    """
    sizes = [t.double().abs().max().item() for t in expected.values() if t.numel()]
    floor = NOTHING * max(sizes, default=0.0) or 1.0
    distances = (
        relative_difference(found.get(n), t, floor) for n, t in expected.items()
    )
    return max(distances, default=0.0)


def sentence(error: BaseException) -> str:
    """An error in one line, without paths of this machine."""
    text = ' '.join(str(error).split()).partition(', the current sys.path')[0]
    return f'{type(error).__name__}: {text[:160]}' if text else type(error).__name__


def main(config: str) -> None:
    """Print a json line, also for a detector that cannot be compared."""
    register_all_modules()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '1')))
    try:
        row = compare(Path(config), {'type': 'UBN'})
    except Exception as error:  # the norm's own: reported like a difference
        row = {'failed': sentence(error)}
    print(json.dumps(row))


if __name__ == '__main__':
    logging.disable(logging.INFO)  # the toolbox tells how it initialises each parameter
    main(sys.argv[1])
