"""The functions that put something else in the place of a BatchNorm, and their refusals.

PyTorch's and the toolbox's take every child of ``_BatchNorm`` for a BatchNorm. What
folds it into a convolution refuses layers of ours that it would fold wrongly, by
:func:`refusing`. What makes a SyncBatchNorm of it leaves ours, by :func:`leaving_ours`.
"""

import functools
import sys
from collections.abc import Callable, Iterable

from torch import nn

from ..patching import Patches
from .padding import leaves_padding_out
from .pipeline import PipelineNorm


class UBNReplacedError(RuntimeError):
    """Layers of ours would be, or have been, replaced by something else."""


def kinds(layers: Iterable[nn.Module]) -> str:
    """The names of the layers' classes: ``'UBN'``, ``'RBN and UBN'``."""
    return ' and '.join(sorted({type(layer).__name__ for layer in layers}))


def refusing(original: Callable) -> Callable:
    """A function that raises before it touches a layer of ours that it would fold wrongly.

    Layers that always evaluate as BatchNorm may pass: their evaluation is the affine map of
    running statistics, weight and bias. Not in a model that leaves padding out: there they
    write zeros to it.
    """

    @functools.wraps(original)
    def guarded(*args, **kwargs):
        arguments = *args, *kwargs.values()
        models = [each for each in arguments if isinstance(each, nn.Module)]
        ours = [
            layer
            for model in models
            for layer in model.modules()
            if isinstance(layer, PipelineNorm)
        ]
        met = [layer for layer in ours if not layer.evaluates_as_batchnorm]
        if met:
            raise UBNReplacedError(
                f'{original.__name__} met {len(met)} {kinds(met)} layer(s): it would fold '
                'them into convolutions as if they were BatchNorm, which in evaluation '
                'they are not. ubn_mmdet.deploy.fold folds those that do not depend on '
                'their input (docs/deploy.md).'
            )
        if ours and any(map(leaves_padding_out, models)):
            raise UBNReplacedError(
                f'{original.__name__} met {len(ours)} {kinds(ours)} layer(s) that leave '
                'padding out (PaddingAware, hide_padding). Folded, they would not: use '
                'DetDataPreprocessor, or do without folding.'
            )
        return original(*args, **kwargs)

    return guarded


def leaving_ours(original: Callable) -> Callable:
    """A function that replaces a module, and calls itself for each child.

    It gives a layer of ours back as it is: those merge their statistics over ranks by
    themselves, and a detector may have BatchNorm layers beside them.
    """

    @functools.wraps(original)
    def guarded(*args, **kwargs):
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, PipelineNorm):
                return argument
        return original(*args, **kwargs)

    return guarded


# Each function where it is defined. Those that see a whole model find out whether it leaves
# padding out. torch.ao.quantization looks up fuse_conv_bn_eval in this module, too.
IN_PYTORCH = Patches(
    [
        (
            'torch.nn.modules.batchnorm',
            'SyncBatchNorm.convert_sync_batchnorm',
            leaving_ours,
        ),
        ('torch.nn.utils.fusion', 'fuse_conv_bn_eval', refusing),
        ('torch.nn.utils.fusion', 'fuse_linear_bn_eval', refusing),
    ]
)
# Not before timm is loaded: to install them would load it.
IN_TIMM = Patches(
    [
        ('timm.layers.norm_act', 'convert_sync_batchnorm', leaving_ours),
        ('timm.layers.split_batchnorm', 'convert_splitbn_model', leaving_ours),
    ]
)


def install() -> None:
    """Guard PyTorch's functions, and timm's if it is loaded."""
    IN_PYTORCH.install()
    if 'timm' in sys.modules:
        IN_TIMM.install()


def uninstall() -> None:
    """Leave PyTorch and timm as they were."""
    IN_PYTORCH.uninstall()
    IN_TIMM.uninstall()
