"""The functions that put something else in the place of a BatchNorm, and their refusals.

PyTorch's and the toolbox's take every child of ``_BatchNorm`` for a BatchNorm. Wrapped
by :func:`refusing` they raise where they meet a layer of ours, before they touch it. What
makes a SyncBatchNorm of a BatchNorm leaves ours, by :func:`leaving_ours`.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from .members import is_ours, kinds


class UBNReplacedError(RuntimeError):
    """Layers of ours would be, or have been, replaced by something else."""


def refusing(
    consequence: str, harmless: Callable[[Any], bool] = lambda layer: False
) -> Callable[[Callable], Callable]:
    """A wrapper that refuses modules with layers of ours among the arguments.

    ``consequence`` says what the function would do, and what to do instead. Layers that
    are ``harmless`` may pass all the same.
    """

    def wrap(original: Callable) -> Callable:
        @functools.wraps(original)
        def guarded(*args, **kwargs):
            for argument in (*args, *kwargs.values()):
                if isinstance(argument, nn.Module):
                    layers = filter(is_ours, argument.modules())
                    met = [layer for layer in layers if not harmless(layer)]
                    if met:
                        raise UBNReplacedError(
                            f'{original.__name__} met {len(met)} {kinds(met)} layer(s): '
                            f'{consequence}.'
                        )
            return original(*args, **kwargs)

        return guarded

    return wrap


def leaving_ours(original: Callable) -> Callable:
    """A function that replaces a module, and calls itself for each child.

    It gives a layer of ours back as it is: those merge their statistics over ranks by
    themselves, and a detector may have BatchNorm layers beside them.
    """

    @functools.wraps(original)
    def guarded(*args, **kwargs):
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, nn.Module) and is_ours(argument):
                return argument
        return original(*args, **kwargs)

    return guarded


_folding = refusing(
    'it would fold them into convolutions as if they were BatchNorm, which in evaluation '
    'they are not. ubn_mmdet.deploy.fold folds those that do not depend on their input '
    '(docs/deploy.md)',
    # Its evaluation is the affine map of running statistics, weight and bias.
    harmless=lambda layer: layer.evaluates_as_batchnorm,
)
_tracing = refusing(
    "it can trace PyTorch's own BatchNorm alone. For layers whose own stages do nothing, "
    'tools/convert_checkpoint.py --to bn gives a BatchNorm model first'
)

# Each function where it is defined, and where all its callers end: fuse_conv_bn looks up
# _fuse_conv_bn, torch.ao.quantization looks up fuse_conv_bn_eval.
REPLACERS = (
    (
        'torch.nn.modules.batchnorm',
        'SyncBatchNorm.convert_sync_batchnorm',
        leaving_ours,
    ),
    ('torch.nn.utils.fusion', 'fuse_conv_bn_eval', _folding),
    ('torch.nn.utils.fusion', 'fuse_linear_bn_eval', _folding),
    ('mmengine.model.utils', 'convert_sync_batchnorm', leaving_ours),
    (
        'mmengine.model.efficient_conv_bn_eval',
        'efficient_conv_bn_eval_forward',
        _folding,
    ),
    (
        'mmengine.model.efficient_conv_bn_eval',
        'turn_on_efficient_conv_bn_eval_for_single_model',
        _tracing,
    ),
    ('mmcv.cnn.bricks.conv_module', 'efficient_conv_bn_eval_forward', _folding),
    ('mmcv.cnn.utils.fuse_conv_bn', '_fuse_conv_bn', _folding),
)
