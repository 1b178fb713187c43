"""One of two configs that are compared, and what it builds."""

import json
import logging
from collections import Counter
from contextlib import ExitStack
from copy import deepcopy
from functools import cached_property
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmcv.cnn import is_norm
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint, set_random_seed
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.utils._pytree import tree_leaves

from ...layers.pipeline import PipelineNorm
from ...layers.stages.affine import AUTHORS_GATE
from ..config_nodes import all_nodes, pretrained_in, type_name
from ..start_hooks import pretrained_modules

IMAGES, SIZE = 2, 128  # generated ones, and their pixels


class Rate(NamedTuple):
    """How a parameter learns."""

    lr: float
    decay: float

    def __str__(self) -> str:
        """For messages."""
        return f'lr {self.lr:.3g}, decay {self.decay:.3g}'

    @property
    def shrinkage(self) -> float:
        """The share that decay takes off in a step of SGD."""
        return self.lr * self.decay

    def is_like(self, other: 'Rate') -> bool:
        """Whether it is the other, or that of the authors' form of the same parameter.

        UBNOptimWrapperConstructor multiplies the rate of that form and divides its decay.
        """
        ratio = self.lr / other.lr if other.lr else 1.0
        is_same = any(isclose(ratio, AUTHORS_GATE**power) for power in (-2, 0, 2))
        return is_same and isclose(self.shrinkage, other.shrinkage)


class Side:
    """A config and its model, built on the CPU, at the start of training.

    To make one sets the random state, and the toolbox's default scope.

    Args:
        name: For messages.
        cfg: The config; it stays as it is.

    Attributes:
        absent: Files of weights that are not on this machine. What they would have filled
            is at random here.
        model: In training mode.
        norms: Its norm layers, by name.
        rates: Of each parameter that learns, as the optimizer has it.
    """

    def __init__(self, name: str, cfg: Config) -> None:
        self.name = name
        self.cfg = cfg
        self.scope = cfg.get('default_scope') or 'mmdet'
        self.load_from = cfg.get('load_from')
        self.absent: list[str] = []
        settings = deepcopy(cfg.model)
        if 'data_preprocessor' in cfg:  # as the runner does
            settings.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
        for node in all_nodes(settings):
            for weights in pretrained_in(node.get('init_cfg')):
                if self._note_if_absent(weights['checkpoint']):
                    node.init_cfg = None
        if self.load_from and self._note_if_absent(self.load_from):
            self.load_from = None
        init_default_scope(self.scope)
        set_random_seed(0)
        self.model = MODELS.build(settings)
        logger = MMLogger.get_current_instance()
        with ExitStack() as quiet:  # else there is a line for every tensor
            quiet.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
            self.model.init_weights()
            if self.load_from:
                load_checkpoint(self.model, self.load_from, 'cpu')
            self.model.train()
            self.rates = self._rates()
        modules = self.model.named_modules()
        self.norms: dict[str, Any] = {n: m for n, m in modules if is_norm(m)}

    def _rates(self) -> dict[str, Rate]:
        keys = 'optimizer', 'constructor', 'paramwise_cfg'
        settings = {k: v for k, v in self.cfg.optim_wrapper.items() if k in keys}
        # Mixed precision is another wrapper's matter, which wants a GPU.
        settings['type'] = 'OptimWrapper'
        wrapper = build_optim_wrapper(self.model, settings)
        rates = {
            id(parameter): Rate(group['lr'], group.get('weight_decay', 0.0))
            for group in wrapper.optimizer.param_groups
            for parameter in group['params']
        }
        named = self.model.named_parameters()
        return {n: rates[id(p)] for n, p in named if p.requires_grad and id(p) in rates}

    def _note_if_absent(self, path: str) -> bool:
        if not Path(path).is_file():
            self.absent.append(path)
        return path in self.absent

    @property
    def training_norms(self) -> dict[str, Any]:
        """The norm layers that train on statistics of their batches."""
        return {
            name: layer
            for name, layer in self.norms.items()
            if layer.training and isinstance(layer, _BatchNorm)
        }

    @property
    def holds_statistics(self) -> bool:
        """Whether it trains with the statistics of a pre-training."""
        is_given = self.absent or self.load_from or any(pretrained_modules(self.model))
        return bool(is_given and self.norms and not self.training_norms)

    @property
    def hooks(self) -> set[str]:
        """The names of the config's own hooks."""
        return {type_name(hook) for hook in self.cfg.get('custom_hooks') or []}

    def content(self) -> dict:
        """The config as json has it."""
        content = self.cfg.to_dict()
        content.pop('work_dir', None)
        return json.loads(json.dumps(content, default=str))

    def merges(self, layer: Any, world: int) -> int:
        """How many processes' batches are normalised together."""
        if isinstance(layer, PipelineNorm):
            return layer.merged_ranks(world)
        is_merged = isinstance(layer, SyncBatchNorm) or self.cfg.get('sync_bn')
        return world if is_merged else 1

    def traits(self, world: int) -> dict[str, dict[str, Any]]:
        """What every kind of BatchNorm has, by the layer's name."""
        batch_size = self.cfg.train_dataloader.batch_size
        return {
            name: {
                'eps': layer.eps,
                'momentum': layer.momentum,
                'images in batch statistics': (
                    batch_size * self.merges(layer, world) * layer.training
                ),
                'learns': any(p.requires_grad for p in layer.parameters()),
            }
            for name, layer in self.norms.items()
            if isinstance(layer, _BatchNorm)
        }

    def usual_shrinkage(self, is_kernel: bool) -> float:
        """The most frequent one, of the biases of norms or the weights of convolutions."""
        names = [f'{name}.bias' for name in self.norms]
        if is_kernel:
            modules = self.model.named_modules()
            names = [f'{n}.weight' for n, m in modules if isinstance(m, nn.Conv2d)]
        found = Counter(self.rates[n].shrinkage for n in names if n in self.rates)
        return found.most_common(1)[0][0] if found else 0.0

    @cached_property
    def scales(self) -> dict[str, list[float]]:
        """Standard deviations of what backbone, neck and heads put out in training.

        By the name of the component, a number for each tensor: of a level, or of logits
        and boxes.
        """
        model = revert_sync_batchnorm(deepcopy(self.model))
        outputs: dict[str, object] = {}
        for name, module in model.named_modules():
            kind = type(module).__name__
            is_head = kind.endswith('Head') and not kind.endswith('RoIHead')
            if is_head or name in ('backbone', 'neck'):
                module.register_forward_hook(
                    lambda _, args, out, name=name: outputs.update({name: out})
                )
        generator = torch.Generator().manual_seed(0)
        small = torch.randn(IMAGES, 3, SIZE // 16, SIZE // 16, generator=generator)
        images = interpolate(small, (SIZE, SIZE), mode='bilinear')  # smooth, as photos
        samples = None
        if not hasattr(model, 'head'):  # a classifier asks for nothing
            from ..deploy import example  # imports the toolbox for detection

            samples = [example(model, (SIZE, SIZE))[1] for _ in range(IMAGES)]
        with torch.no_grad():
            result = model(images, samples, mode='tensor')
        if hasattr(model, 'bbox_head'):  # a one-stage detector calls it past hooks
            outputs.setdefault('bbox_head', result)
        return {
            name: [
                float(leaf.std())
                for leaf in tree_leaves(output)
                if isinstance(leaf, Tensor) and leaf.numel() > 1
            ]
            for name, output in outputs.items()
        }
