"""Keeps our layers from being replaced without a word.

:func:`install`, called when the package is imported, makes what would replace them refuse
(``replacers.py``). It gives every runner the hooks that look at what arrived
and keep gates alike on all ranks (``hooks.py``), and record what gates do
(``condensation_hook.py``). It also lets the toolbox's initialisers respect how a layer
starts, and MMEngine's FLOP counter see it (``flops.py``). :func:`uninstall` takes all of it
back.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

from torch import nn

from ..layers.pipeline import PipelineNorm
from .condensation_hook import GateHook
from .flops import COUNTER
from .hooks import MergeGatesHook, UBNGuardHook
from .replacers import REPLACERS

# The full name of the module that defines a function or its class; 'function' or
# 'Class.method'; what makes the new function out of the old one. A class or static method
# is handed over as the plain function inside, and becomes one again.
Patch = tuple[str, str, Callable[[Callable], Callable]]


class _Swap(NamedTuple):
    owner: ModuleType | type
    name: str
    old: object
    new: object


def _prepare(patch: Patch) -> _Swap | None:
    module, path, wrap = patch
    *parents, name = path.split('.')
    try:
        owner = importlib.import_module(module)
        for parent in parents:
            owner = getattr(owner, parent)
        old = vars(owner)[name]  # and not getattr, which would bind a class method
    except (ImportError, AttributeError, KeyError):  # another version has no such thing
        return None
    if isinstance(old, classmethod | staticmethod):
        return _Swap(owner, name, old, type(old)(wrap(old.__func__)))
    return _Swap(owner, name, old, wrap(old))


def _swap(swaps: Iterable[_Swap]) -> None:
    """Put ``new`` where ``old`` is; what others have put there since stays."""
    functions = {}
    for owner, name, old, new in swaps:
        if isinstance(owner, ModuleType):
            functions[id(old)] = new
        elif vars(owner)[name] is old:
            setattr(owner, name, new)
    # Whoever wrote "from module import function" holds the function itself: any loaded
    # module may, the defining one among them. The dictionary is read past __getattr__,
    # so that modules which load on first use are left asleep.
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            names = ModuleType.__getattribute__(module, '__dict__')
            for name, value in list(names.items()):
                if id(value) in functions:
                    names[name] = functions[id(value)]


def _with_hooks(original: Callable) -> Callable:
    @functools.wraps(original)
    def register_hooks(self, *args, **kwargs):
        original(self, *args, **kwargs)
        for kind in (UBNGuardHook, MergeGatesHook, GateHook):
            if not any(isinstance(hook, kind) for hook in self.hooks):
                self.register_hook(kind())

    return register_hooks


def _with_own_start(original: Callable) -> Callable:
    """Let the toolbox's "start at one" mean "start as this norm starts".

    Each ``ConvModule`` calls ``constant_init(norm, 1)``, and so do backbones, through
    ``init_cfg``; there is no hook on the norm's side. Every other value is taken as it is,
    above all the 0 of ``zero_init_residual``.
    """

    @functools.wraps(original)
    def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
        original(module, val, bias)
        if val == 1 and isinstance(module, PipelineNorm) and module.affine:
            module.start_weight()

    return constant_init


PATCHES: tuple[Patch, ...] = (
    *REPLACERS,
    ('mmengine.runner', 'Runner.register_hooks', _with_hooks),
    ('mmengine.runner', 'FlexibleRunner.register_hooks', _with_hooks),
    ('mmengine.model.weight_init', 'constant_init', _with_own_start),
    COUNTER,
)
_installed: list[_Swap] = []


def install() -> None:
    """Make replacers refuse our layers, and runners report them; again, to no effect."""
    if not _installed:
        found = map(_prepare, PATCHES)
        _installed.extend(swap for swap in found if swap is not None)
        _swap(_installed)


def uninstall() -> None:
    """Leave PyTorch and the toolbox as they were; the layers stay registered."""
    _swap(swap._replace(old=swap.new, new=swap.old) for swap in _installed)
    _installed.clear()
