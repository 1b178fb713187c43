"""Wraps functions of other packages, wherever they are known by name, and takes it back."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import NamedTuple


class Patch(NamedTuple):
    """A function to be wrapped.

    Attributes:
        module: Full name of the module that defines the function or its class.
        path: ``'function'``, or ``'Class.method'``.
        wrap: Makes the new function out of the old one. A class or static method is
            handed over as the plain function inside, and becomes one again.
    """

    module: str
    path: str
    wrap: Callable[[Callable], Callable]


class _Swap(NamedTuple):
    owner: ModuleType | type
    name: str
    old: object
    new: object


class Patches:
    """Patches that are installed and taken back together."""

    def __init__(self, patches: Sequence[Patch]) -> None:
        self._patches = patches
        self._installed: list[_Swap] = []

    def install(self) -> None:
        """Wrap what there is of the functions; a second call changes nothing."""
        if self._installed:
            return
        found = map(_prepare, self._patches)
        self._installed = [swap for swap in found if swap is not None]
        _swap(self._installed)

    def uninstall(self) -> None:
        """Put the very objects back that were there before."""
        _swap(swap._replace(old=swap.new, new=swap.old) for swap in self._installed)
        self._installed = []


def _prepare(patch: Patch) -> _Swap | None:
    *parents, name = patch.path.split('.')
    try:
        owner = importlib.import_module(patch.module)
        for parent in parents:
            owner = getattr(owner, parent)
        old = vars(owner)[name]  # and not getattr, which would bind a class method
    except (ImportError, AttributeError, KeyError):  # another version has no such thing
        return None
    if isinstance(old, classmethod | staticmethod):
        return _Swap(owner, name, old, type(old)(patch.wrap(old.__func__)))
    return _Swap(owner, name, old, patch.wrap(old))


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
