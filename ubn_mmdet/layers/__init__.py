"""Norm layers as ``nn.Module``; they need PyTorch alone."""

from .convert import convert_batchnorm
from .ubn import UBN

__all__ = ['UBN', 'convert_batchnorm']
