"""Checks of constructor arguments: each names the value and what is allowed."""

from collections.abc import Callable, Collection
from numbers import Real
from typing import cast

import torch


def check_choice(name: str, value: object, allowed: Collection) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in tuple(allowed):  # by ==: the value may be unhashable
        choices = ' or '.join(map(repr, allowed))
        raise ValueError(f'{name} must be {choices}, got {value!r}')


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def check_count(name: str, value: object, *, odd: bool = False, least: int = 1) -> None:
    """Raise unless ``value`` is an, if asked odd, integer of ``least`` or more."""
    kind = 'a positive odd integer' if odd else 'a positive integer'
    if least < 1:
        kind = 'an integer'
    if least != 1:
        kind += f' >= {least}'
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'{name} must be {kind}, got {value!r}')
    if value < least or (odd and value % 2 == 0):
        raise ValueError(f'{name} must be {kind}, got {value!r}')


def check_number(
    name: str, value: object, within: Callable[[float], bool], allowed: str
) -> None:
    """Raise unless ``value`` is a real number for which ``within`` holds."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{name} must be {allowed}, got {value!r}')
    if not within(cast(float, value)):
        raise ValueError(f'{name} must be {allowed}, got {value!r}')


def check_dtype(value: object) -> None:
    """Raise TypeError unless ``value`` is None or a dtype that PyTorch computes in."""
    allowed = 'None or a real floating-point dtype of 16 bits or more'
    # PyTorch stores float8, and does not compute with it.
    if value is not None and not (
        isinstance(value, torch.dtype)
        and value.is_floating_point
        and torch.finfo(value).bits >= 16
    ):
        raise TypeError(f'dtype must be {allowed}, got {value!r}')
