"""Which definition belongs to which member of the family."""

from torch import Tensor, nn

from helpers import relatives, statistics
from helpers.definition import Result, State, ubn_of_ranks
from ubn_mmdet import UBN
from ubn_mmdet.layers import FAMILY

# Attributes of the statistics stage that a definition takes as they are named.
OWN = {
    'BGN': ('num_groups',),
    'MABN': ('memory_size', 'warmup_steps', 'renorm_steps', 'r_max'),
    'MBN': ('memory_size', 'decay'),
    'PowerNorm': ('warmup_steps',),
}
DEFINITIONS = {
    'RBN': relatives.rbn,
    'IEBN': relatives.iebn,
    'BNET': relatives.bnet,
    'BGN': relatives.bgn,
    'InitBN': relatives.batchnorm,
    'BatchRenorm': statistics.batch_renorm,
    'MABN': statistics.mabn,
    'MBN': statistics.mbn,
    'PowerNorm': statistics.power_norm,
    'JSNorm': relatives.js_norm,
    'L2BN': relatives.l2bn,
}
assert {UBN.__name__, *DEFINITIONS} == {member.__name__ for member in FAMILY}


def define(layer: nn.Module, xs: list[Tensor], state: State) -> Result:
    """What the definition of any member makes of the batches of all ranks."""
    common = {
        'training': layer.training,
        'eps': layer.eps,
        'momentum': layer.momentum,
    }
    name, stage = type(layer).__name__, layer.stages.statistics
    if isinstance(layer, UBN):
        return ubn_of_ranks(
            xs,
            state,
            threshold=layer.condensation_threshold,
            feature=layer.condensation_feature,
            opens=stage.opens,
            **common,
        )
    own = {setting: getattr(stage, setting) for setting in OWN.get(name, ())}
    if name == 'BatchRenorm':
        own['limits'] = stage.r_max, stage.d_max
        own['steps'] = stage.plain_steps, stage.r_steps, stage.d_steps
    return DEFINITIONS[name](xs, state, **common, **own)
