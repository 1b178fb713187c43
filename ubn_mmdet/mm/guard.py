"""Keeps our layers from being replaced without a word.

:func:`install`, called when the package is imported, makes what would replace them refuse
(``layers/replacers.py``). It gives every runner the hooks that look at what arrived
and keep gates alike on all ranks (``hooks.py``), and record what gates do
(``condensation_hook.py``). It also lets the toolbox's initialisers respect how a layer
starts, and MMEngine's FLOP counter see it (``flops.py``). :func:`uninstall` takes all of it
back.
"""

import functools
from collections.abc import Callable

from torch import nn

from ..layers import replacers
from ..layers.pipeline import PipelineNorm
from ..layers.replacers import leaving_ours, refusing
from ..patching import Patches
from .condensation_hook import GateHook
from .flops import COUNTER
from .hooks import MergeGatesHook, UBNGuardHook


def _with_hooks(original: Callable) -> Callable:
    @functools.wraps(original)
    def register_hooks(self, *args, **kwargs):
        original(self, *args, **kwargs)
        for kind in (UBNGuardHook, MergeGatesHook, GateHook):
            if not any(isinstance(hook, kind) for hook in self.hooks):
                self.register_hook(kind())

    return register_hooks


def _with_own_start(original: Callable) -> Callable:
    """Let the toolbox's "start at one" mean "start as this norm starts".

    Each ``ConvModule`` calls ``constant_init(norm, 1)``, and so do backbones, through
    ``init_cfg``; there is no hook on the norm's side. Every other value is taken as it is,
    above all the 0 of ``zero_init_residual``.
    """

    @functools.wraps(original)
    def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
        original(module, val, bias)
        if val == 1 and isinstance(module, PipelineNorm) and module.affine:
            module.start_weight()

    return constant_init


IN_TOOLBOX = Patches(
    [
        ('mmengine.model.utils', 'convert_sync_batchnorm', leaving_ours),
        (
            'mmengine.model.efficient_conv_bn_eval',
            'turn_on_efficient_conv_bn_eval',
            refusing,
        ),
        (
            'mmengine.model.efficient_conv_bn_eval',
            'efficient_conv_bn_eval_graph_transform',
            refusing,
        ),
        (
            'mmengine.model.efficient_conv_bn_eval',
            'efficient_conv_bn_eval_forward',
            refusing,
        ),
        ('mmcv.cnn.bricks.conv_module', 'efficient_conv_bn_eval_forward', refusing),
        ('mmcv.cnn.utils.fuse_conv_bn', 'fuse_conv_bn', refusing),
        ('mmcv.cnn.utils.fuse_conv_bn', '_fuse_conv_bn', refusing),
        ('mmengine.runner', 'Runner.register_hooks', _with_hooks),
        ('mmengine.runner', 'FlexibleRunner.register_hooks', _with_hooks),
        ('mmengine.model.weight_init', 'constant_init', _with_own_start),
        COUNTER,
    ]
)


def install() -> None:
    """Make replacers refuse our layers, and runners report them; again, to no effect."""
    replacers.install()
    IN_TOOLBOX.install()


def uninstall() -> None:
    """Leave PyTorch, timm and the toolbox as they were; the layers stay registered."""
    replacers.uninstall()
    IN_TOOLBOX.uninstall()
