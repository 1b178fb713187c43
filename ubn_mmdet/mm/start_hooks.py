"""Hooks that stop a run whose pre-trained start does not fit it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers.checks import check_count, check_number
from ..layers.precise import kept_modes
from .config_nodes import pretrained_in
from .members import unwrapped, whole_model

LIMIT = 3.0  # how many times larger features may be before they are suspect
_UNCOUNTED = {'num_batches_tracked'}  # old files lack it


class CheckpointLayoutError(RuntimeError):
    """A checkpoint is of other norm layers than the model's."""


class FeatureScaleError(RuntimeError):
    """Features are much larger than where the backbone was pre-trained."""


@HOOKS.register_module()
class CheckpointLayoutHook(Hook):
    """Stops a run whose pre-trained weights are of other norm layers than the model's.

    Every layer of this package takes BatchNorm's weights, and BatchNorm takes those of its
    own name from any checkpoint: neither fails when it is given the other's. Where a
    comparison needs weights that were trained with the same norm, this hook compares the
    keys of each norm layer with those in the file, for every module whose ``init_cfg`` is
    ``Pretrained``. It cannot tell apart norms with the same keys, such as BatchNorm with
    another start.

    Raises:
        CheckpointLayoutError: Before the first step, unless the run is resumed.
    """

    def before_train(self, runner: Any) -> None:
        """Compare."""
        if runner.iter:
            return
        for name, module, init_cfg in pretrained_modules(unwrapped(runner)):
            if differences := norm_differences(module, pretrained_state(init_cfg)):
                place = f'model.{name}' if name else 'model'
                raise CheckpointLayoutError(
                    f'{init_cfg["checkpoint"]} has not been trained with the norm of this '
                    f'config: it has other tensors for {len(differences)} norm layer(s) '
                    f'of {place}, as for {differences[0]}. The weights must come from a '
                    'pre-training with the same norm_cfg; '
                    f'{place}.init_cfg.checkpoint names them'
                )


class Difference(NamedTuple):
    """What a file has less and more of a norm layer than the layer itself."""

    layer: str
    lacks: list[str]
    adds: list[str]

    def __str__(self) -> str:
        """Such as ``'bn1, where it lacks condensation'``."""
        parts = {'lacks': self.lacks, 'adds': self.adds}
        told = [f'{verb} {", ".join(keys)}' for verb, keys in parts.items() if keys]
        return f'{self.layer}, where it {" and ".join(told)}'


def norm_differences(
    module: nn.Module, state: Mapping[str, Tensor]
) -> list[Difference]:
    """The norm layers of ``module`` whose keys in ``state`` are not their own."""
    found = []
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        prefix = f'{name}.' if name else ''
        own = set(layer.state_dict())
        theirs = {k.removeprefix(prefix) for k in state if k.startswith(prefix)}
        lacks, adds = own - theirs - _UNCOUNTED, theirs - own - _UNCOUNTED
        if lacks or adds:
            found.append(Difference(name, sorted(lacks), sorted(adds)))
    return found


def pretrained_modules(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Module, Mapping[str, Any]]]:
    """The modules that load weights: name, module and ``init_cfg`` of each."""
    for name, module in model.named_modules():
        for each in pretrained_in(getattr(module, 'init_cfg', None)):
            yield name, module, each


def pretrained_state(init_cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an ``init_cfg`` of type ``Pretrained`` loads, by the module's own names."""
    path = init_cfg['checkpoint']
    checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    state = checkpoint.get('state_dict', checkpoint)
    prefix = init_cfg.get('prefix')
    if not prefix:
        # MMEngine then takes off what DistributedDataParallel puts before the names.
        return {k.removeprefix('module.'): v for k, v in state.items()}
    prefix = f'{prefix.rstrip(".")}.'
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@HOOKS.register_module()
class FeatureScaleHook(Hook):
    """Stops a run whose features are much larger than at the size of its pre-training.

    With constant statistics, nothing after a depthwise kernel corrects the scale of maps
    that have less border than those in training. Before the first step of a run that is not
    resumed, the hook takes the step's images as they are and shrunk to the size of
    pre-training, and compares the standard deviations of the backbone's levels, in
    evaluation mode. The mean over ranks counts.

    Args:
        limit: How many times larger the features of a level may be, above 1. In small
            experiments BatchNorm's last level grew 1.3-fold at most; where a level grew
            3.8-fold or more, training diverged.
        size: Of the shorter side in pre-training, in pixels. Images that are no larger
            are compared with themselves.

    Raises:
        FeatureScaleError: If a level grows beyond the limit.
        TypeError, ValueError: For an argument that is not one of those described.
        ValueError: At the first step, if the model is sharded (FSDP).
    """

    def __init__(self, limit: float = LIMIT, size: int = 224) -> None:
        check_number('limit', limit, lambda v: 1 < v < math.inf, 'finite and above 1')
        check_count('size', size)
        self.limit = limit
        self.size = size

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Look at the first batch."""
        if runner.iter:
            return
        model = whole_model(runner, self)
        images = model.data_preprocessor({'inputs': data_batch['inputs']})['inputs']
        shorter = min(images.shape[2:])
        # No larger than they are: on every rank, for all are to meet below.
        size = min(self.size, shorter)
        small = interpolate(
            images, scale_factor=size / shorter, mode='bilinear', antialias=True
        )
        with kept_modes(model), torch.no_grad():
            model.eval()
            levels = [model.backbone(x) for x in (small, images)]
        scales = torch.stack([torch.stack([x.std() for x in maps]) for maps in levels])
        all_reduce(scales, 'mean')
        growth = float((scales[1] / scales[0]).max())
        if not growth <= self.limit:  # nan counts as too large
            raise FeatureScaleError(
                f'features of the backbone grow {growth:.1f}-fold from images of '
                f'{size} pixels, as in pre-training, to those of {shorter}; the '
                f'limit is {self.limit}. A detector trained with these statistics held is '
                'likely to diverge. Pre-train at a larger size, or let the norm layers '
                'take the statistics of their batches (norm_eval=False), with each norm '
                'of a comparison. FeatureScaleHook(limit=...) sets the limit'
            )
