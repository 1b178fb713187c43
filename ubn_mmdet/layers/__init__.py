"""Norm layers as ``nn.Module``; they need PyTorch alone."""

from .ubn import UBN

__all__ = ['UBN']
