"""Norm layers as ``nn.Module``; they need PyTorch alone."""

from .batch_renorm import BatchRenorm
from .bgn import BGN
from .convert import convert_batchnorm
from .js_norm import JSNorm
from .mabn import MABN, CentralizedConv2d
from .mbn import MBN, second_forward
from .padding import hide_padding
from .power_norm import PowerNorm
from .precise import precise_statistics
from .relatives import BNET, IEBN, L2BN, RBN, InitBN
from .ubn import UBN

# Each is registered under its name where there is a toolbox.
FAMILY = (
    UBN, RBN, IEBN, BNET, BGN, InitBN, JSNorm, L2BN,
    BatchRenorm, MABN, MBN, PowerNorm,  # with averages over batches in training
)  # fmt: skip

__all__ = [
    'BGN',
    'BNET',
    'IEBN',
    'L2BN',
    'MABN',
    'MBN',
    'RBN',
    'UBN',
    'BatchRenorm',
    'CentralizedConv2d',
    'InitBN',
    'JSNorm',
    'PowerNorm',
    'convert_batchnorm',
    'hide_padding',
    'precise_statistics',
    'second_forward',
]
