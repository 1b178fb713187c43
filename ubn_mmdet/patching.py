"""Wraps functions of other packages, wherever they are known, and puts them back."""

import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

# The full name of the module that defines a function or its class; 'function' or
# 'Class.method'; what makes the new function out of the old one. A class or static method
# is handed over as the plain function inside, and becomes one again.
Patch = tuple[str, str, Callable[[Callable], Callable]]


class Patches:
    """Some functions of other packages, each with what is to wrap it.

    Args:
        patches: A function that is not there, in another version say, is passed over.
    """

    def __init__(self, patches: Iterable[Patch]) -> None:
        self.patches = tuple(patches)
        self._installed: list[_Swap] = []

    @property
    def is_installed(self) -> bool:
        """Whether they are wrapped."""
        return bool(self._installed)

    def install(self) -> None:
        """Wrap them. A second call has no effect."""
        if not self.is_installed:
            found = map(_prepare, self.patches)
            self._installed = [swap for swap in found if swap is not None]
            _swap(self._installed)

    def uninstall(self) -> None:
        """Put them back."""
        _swap(swap._replace(old=swap.new, new=swap.old) for swap in self._installed)
        self._installed = []


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
