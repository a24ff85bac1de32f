"""Operations that a compiler doesn't look into, called as directly as torch allows.

`torch.library.custom_op` switches a compiler off and on around each call and compares what comes out with
what went in. On the host of an H100 a call of `adapted_4bit` took Python 236 us with that and 214 without,
118 of them in its own function: in a short batch the card waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef


def operation(
    name: str, on_card: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """As `torch.library.custom_op`: gradients are registered with what this returns. Nothing is mutated.

    on_card: what runs there instead
    """

    def define(function: Callable[..., Any]) -> CustomOpDef:
        made = torch.library.custom_op(name, function, mutates_args=())
        torch.library.impl(name, "cuda", on_card or function)
        return made

    return define


def operation_without_gradient(
    name: str, on_card: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """The same for what isn't differentiated, as the gradients of others: torch then doesn't ask at each call
    whether it should be.
    """

    def define(function: Callable[..., Any]) -> Any:
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(name, "default", function)
        if on_card is not None:
            torch.library.impl(name, "cuda", on_card)
        namespace, _, short = name.partition("::")
        return getattr(getattr(torch.ops, namespace), short).default

    return define


def register_fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`torch.library.register_fake`, with types: shapes and dtypes of what an operation returns."""
    return torch.library.register_fake(name)  # type: ignore[no-any-return]
