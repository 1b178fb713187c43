"""Checks two configs that are to be compared, before a run is spent on them."""

from .checks import preflight
from .side import Side

__all__ = ['Side', 'preflight']
