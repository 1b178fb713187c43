"""How norm layers learn: optimizer-wrapper constructors for configs."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..layers import UBN, InitBN
from ..layers.pipeline import PipelineNorm
from ..layers.stages.affine import AUTHORS_GATE
from .config_nodes import type_name

LR_MULT = 0.01
SCALED = 'weight', 'spatial_weight', 'bias'  # what our form divides by the gate


class NormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Lets norm layers have a say in the rate and the decay of their parameters.

    The ``optimizer`` must state ``lr``. :attr:`defaults` hold where ``paramwise_cfg`` is
    silent.
    """

    # The toolbox looks at single parameters only if there is an entry. Then a head whose
    # levels share their convolutions would be refused.
    defaults: dict[str, Any] = {'bypass_duplicate': True}

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        if optim_wrapper_cfg.get('optimizer', {}).get('lr') is None:
            name = type(self).__name__
            raise ValueError(
                f'{name} multiplies lr: optim_wrapper.optimizer must state it'
            )
        super().__init__(optim_wrapper_cfg, self.defaults | (paramwise_cfg or {}))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimizer wrapper, with a parameter group for each parameter of ``model``."""
        wrapper = super().__call__(model)
        groups = {id(g['params'][0]): g for g in wrapper.optimizer.param_groups}
        keys = self.paramwise_cfg.get('custom_keys', {})
        for path, module in getattr(model, 'module', model).named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if group := groups.pop(id(parameter), None):  # once, if it is shared
                    is_custom = any(key in f'{path}.{name}' for key in keys)
                    self.adjust(group, module, name, is_custom)
        return wrapper

    def adjust(self, group: dict, module: Any, name: str, is_custom: bool) -> None:
        """Change what is special about the parameter ``name`` of ``module`` in place.

        ``group`` is of this parameter alone, with its ``lr`` and ``weight_decay``.
        ``is_custom`` says whether ``custom_keys`` have decided about it.
        """
        raise NotImplementedError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class InitBNOptimWrapperConstructor(NormOptimWrapperConstructor):
    """Trains as "Revisiting Batch Norm Initialization" does (ECCV 2022, 2110.13989).

    The ``weight`` of every :class:`InitBN` learns at a hundredth of the learning rate,
    and no norm parameter and no bias of the model decays:

        optim_wrapper = dict(constructor='InitBNOptimWrapperConstructor', ...)

    The ``optimizer`` must state ``lr`` and ``weight_decay``. ``norm_decay_mult`` and
    ``bias_decay_mult`` are 0 unless ``paramwise_cfg`` says otherwise. The hundredth comes
    on top of what ``custom_keys`` say of such a weight. As ever, a parameter that
    ``custom_keys`` match decays as they say. Schedulers that name a rate instead of a
    ratio (``eta_min``, OneCycleLR) give it to all parameters: use ``eta_min_ratio``.
    """

    defaults = NormOptimWrapperConstructor.defaults | {
        'norm_decay_mult': 0.0,
        'bias_decay_mult': 0.0,
    }

    def adjust(self, group: dict, module: Any, name: str, is_custom: bool) -> None:
        """Slow the weight of an InitBN down."""
        if isinstance(module, InitBN) and name == 'weight':
            group['lr'] *= LR_MULT


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class UBNOptimWrapperConstructor(NormOptimWrapperConstructor):
    """Trains UBN by SGD as its authors' layer trains (arXiv 2311.15993).

    ``weight``, ``spatial_weight`` and ``bias`` learn at ``g^2`` of the rate, and their
    weight decay is divided by ``g^2``; ``g = sigmoid(1)`` is what the scaling gate starts
    from. All steps are then the authors', with momentum and weight decay
    (docs/how-it-works.md). This is for every UBN that has a scaling gate and the paper's
    initialisation, ``initial_spatial='kaiming'``. One that starts as BatchNorm learns at
    BatchNorm's rates.

    For all norm layers, the constructor does one thing more: the taps of a kernel,
    ``spatial_weight``, decay as convolutions do, also where ``norm_decay_mult`` says how
    the rest of a norm layer decays. So one setting serves BatchNorm and what it is
    compared with:

        optim_wrapper = dict(
            constructor='UBNOptimWrapperConstructor',
            paramwise_cfg=dict(norm_decay_mult=0.0),
        )

    The ``optimizer`` must state ``lr``. The authors' rates come on top of what
    ``custom_keys`` say; what they match decays as they say. Schedulers that name a rate
    instead of a ratio (``eta_min``, OneCycleLR) give it to all parameters: use
    ``eta_min_ratio``.

    Raises:
        ValueError: If ``lr`` is missing, or a layer needs the authors' rates and the
            optimizer is not SGD.
    """

    def adjust(self, group: dict, module: Any, name: str, is_custom: bool) -> None:
        """Set the kernel's own decay, and the authors' rates."""
        if not isinstance(module, PipelineNorm):
            return
        if name == 'spatial_weight' and not is_custom and self.base_wd is not None:
            group['weight_decay'] = self.base_wd
        has_authors_start = (
            isinstance(module, UBN)
            and module.scaling is not None
            and module.initial_spatial == 'kaiming'
        )
        if name in SCALED and has_authors_start:
            if type_name(self.optimizer_cfg) != 'SGD':
                raise ValueError(
                    "UBN with initial_spatial='kaiming' learns at the rates of its "
                    f"authors' SGD, got {self.optimizer_cfg['type']!r}: use SGD, or the "
                    'default constructor'
                )
            group['lr'] *= AUTHORS_GATE**2
            group['weight_decay'] /= AUTHORS_GATE**2
