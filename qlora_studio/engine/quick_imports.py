"""Libraries that take long to load, loaded without what is never used of them."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch


def import_bitsandbytes() -> None:
    """Before whoever imports it first, peft too.

    It has its fallbacks for devices without kernels of their own compiled as it is imported. That loads
    torch's compiler, 2 s of one slow processor; on CUDA and on a CPU none of them runs.
    """
    with patch.object(torch, "compile", _not_compiled):
        import bitsandbytes  # noqa: F401


def _not_compiled(function: Any = None, **_: Any) -> Any:
    """As a decorator, with options or without."""
    return function if function is not None else _not_compiled
