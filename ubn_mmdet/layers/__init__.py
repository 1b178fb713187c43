"""Norm layers as ``nn.Module``; they need PyTorch alone."""

from .batch_renorm import BatchRenorm
from .bnet import BNET
from .convert import convert_batchnorm
from .iebn import IEBN
from .init_bn import InitBN
from .rbn import RBN
from .ubn import UBN

# Each is registered under its name where there is a toolbox.
FAMILY = (UBN, RBN, IEBN, BNET, InitBN, BatchRenorm)

__all__ = [
    'BNET',
    'FAMILY',
    'IEBN',
    'RBN',
    'UBN',
    'BatchRenorm',
    'InitBN',
    'convert_batchnorm',
]
