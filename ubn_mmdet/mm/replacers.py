"""The functions that put something else in the place of a BatchNorm, and their refusals.

PyTorch's and the toolbox's take every child of ``_BatchNorm`` for a BatchNorm. What
folds it into a convolution refuses layers of ours that it would fold wrongly, by
:func:`refusing`. What makes a SyncBatchNorm of it leaves ours, by :func:`leaving_ours`.
"""

import functools
from collections.abc import Callable

from torch import nn

from ..layers.pipeline import PipelineNorm
from .members import kinds, leaves_padding_out


class UBNReplacedError(RuntimeError):
    """Layers of ours would be, or have been, replaced by something else."""


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
REPLACERS = (
    (
        'torch.nn.modules.batchnorm',
        'SyncBatchNorm.convert_sync_batchnorm',
        leaving_ours,
    ),
    ('torch.nn.utils.fusion', 'fuse_conv_bn_eval', refusing),
    ('torch.nn.utils.fusion', 'fuse_linear_bn_eval', refusing),
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
)
