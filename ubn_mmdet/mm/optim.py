"""How the weights of InitBN learn: an optimizer-wrapper constructor for configs."""

import math

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..layers import InitBN
from ..layers.checks import check_number

LR_MULT = 0.01


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class InitBNOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Trains as "Revisiting Batch Norm Initialization" does (ECCV 2022, 2110.13989).

    The ``weight`` of every :class:`InitBN` learns at a hundredth of the learning rate,
    and no norm parameter and no bias of the model decays:

        optim_wrapper = dict(constructor='InitBNOptimWrapperConstructor', ...)

    Args:
        optim_wrapper_cfg: As for ``DefaultOptimWrapperConstructor``. Its ``optimizer``
            must state ``lr`` and ``weight_decay``.
        paramwise_cfg: Likewise. ``norm_decay_mult`` and ``bias_decay_mult`` are 0 unless
            it says otherwise. ``init_bn_lr_mult`` is the multiplier, 0.01; it comes on
            top of what ``custom_keys`` say of such a weight. As ever, a parameter that
            ``custom_keys`` match decays as they say.

    Raises:
        ValueError: If ``lr`` or ``weight_decay`` is missing, or the multiplier negative.
        TypeError: If the multiplier is no number.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        paramwise_cfg = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0} | (
            paramwise_cfg or {}
        )
        self._lr_mult = paramwise_cfg.pop('init_bn_lr_mult', LR_MULT)
        check_number(
            'init_bn_lr_mult',
            self._lr_mult,
            lambda v: 0 <= v < math.inf,
            'a finite number >= 0',
        )
        for name in ('lr', 'weight_decay'):
            # The default of an optimizer is not known here.
            if optim_wrapper_cfg.get('optimizer', {}).get(name) is None:
                raise ValueError(
                    f'{type(self).__name__} multiplies {name}: '
                    'optim_wrapper.optimizer must state it'
                )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add a parameter group for each parameter of ``module``."""
        first = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if not isinstance(module, InitBN):
            return
        for group in params[first:]:
            if group['params'][0] is module.weight:
                group['lr'] = group.get('lr', self.base_lr) * self._lr_mult
