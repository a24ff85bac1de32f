"""torch's compiler made ready before a layer waits for it.

A first compiled layer waits for much that is no work on that layer: modules, a process beside that compiles
many kernels at once as soon as it has loaded torch itself (until then they are compiled one by one), the
card's libraries. tests/benchmarks/first_step.py measures how long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qlora_studio.engine.attention import flash_takes

_log = logging.getLogger(__name__)
# What is missing, has changed or can't be had there: a run's first step will tell, here nobody asked yet.
_NOT_READY = (
    ImportError,
    AttributeError,
    OSError,
    RuntimeError,
)  # the last one: its own
_TOKENS, _HEADS, _HEAD_DIM = 128, 2, 64  # of what is compiled; any would do


def compiles_on(device: torch.device) -> bool:
    """Whether layers are ever compiled there: attention of compiled ones is torch's flash attention."""
    return flash_takes(_HEAD_DIM, torch.bfloat16, device)


def make_compiler_ready(device: torch.device, is_asked: Callable[[], bool]) -> None:
    """As far as it goes before something is asked, where layers are compiled."""
    if not compiles_on(device):
        return
    for get_ready in (start_compiling_processes, partial(compile_something, device)):
        if not is_asked():
            get_ready()


@cache
def start_compiling_processes() -> None:
    """Those that compile kernels for us: the first loads torch meanwhile; idle ones end by themselves."""
    try:
        import torch._inductor.compile_fx  # noqa: F401  # what a first layer would load
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.warm_pool()
        AsyncCompile.use_process_pool()  # type: ignore[no-untyped-call]  # gives them a first task: get ready
    except _NOT_READY as error:
        _log.warning("The compiler's processes didn't start: %s: %s", type(error).__name__, error)


@cache
def compile_something(device: torch.device) -> None:
    """There and back."""
    try:
        x = torch.ones(_TOKENS, _HEADS, _HEAD_DIM, dtype=torch.bfloat16, device=device, requires_grad=True)
        starts = torch.tensor([0, _TOKENS], dtype=torch.int32, device=device)
        torch.compile(_something, fullgraph=True)(x, starts).backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
    except _NOT_READY as error:
        _log.warning("The compiler could not be tried: %s: %s", type(error).__name__, error)


def _something(x: Tensor, starts: Tensor) -> Tensor:
    """Of every kind that a layer has: attention, a product, and what lies between."""
    from qlora_kernels import packed_attention

    attended, _ = packed_attention(x, x, x, starts, _TOKENS, _HEAD_DIM**-0.5, 0)
    rows = attended.flatten(1)
    return F.silu(rows @ rows.t()).float().sum()
