"""Libraries that others load where they find them, and that nothing here uses: the reader starts without."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def leave_out(name: str) -> None:
    """From now on importing it fails, as if it weren't installed."""
    sys.meta_path.insert(0, _LeftOut(name))


class _LeftOut(MetaPathFinder, Loader):
    """Not `sys.modules[name] = None`: what is compiled by Cython takes that None for the module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self._name else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"{self._name} is left out", name=self._name)
