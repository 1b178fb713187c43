"""Inference at BatchNorm's price: layers become arithmetic of convolutions."""

from .fold import Fold, FoldReport, fold

__all__ = ['Fold', 'FoldReport', 'fold']
