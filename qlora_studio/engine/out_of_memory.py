"""Running out of memory as a result, not a crash: what was needed, what was free, what fits (R14)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from qlora_studio.config.run_config import HOST, RunConfig
from qlora_studio.engine.device import Device
from qlora_studio.engine.pinned_memory import PinnedMemoryError
from qlora_studio.memory.devices import ram_reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.less_memory import Way, named_rows

_ON_CPU = re.compile(r"you tried to allocate (\d+) bytes")
_ON_CARD = re.compile(r"Tried to allocate ([\d.]+) ([KMG]iB)")
_ALLOWED = re.compile(r"([\d.]+) ([KMG]iB) allowed")  # where a limit was set for the process
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """On a card, or on a processor, where torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, torch.AcceleratorError) and "out of memory" in str(error):
        return True  # of what the driver takes by itself, past torch's own allocator
    return isinstance(error, RuntimeError) and _ON_CPU.search(str(error)) is not None


def out_of_memory(
    error: BaseException,
    doing: str,
    device: Device,
    config: RunConfig | None,
    held: str = "",
    ways: str = "",
) -> Problem:
    """doing: such as "at step 12", "while loading the model".

    held: sentences on what was in memory
    ways: in which the run itself can go on with less, in words
    """
    if isinstance(error, PinnedMemoryError):
        free = ram_reading().free_bytes
        message = f"The machine ran out of RAM {doing}{_pinned_amount(error.needed_bytes, free)}. {held}"
        hint = partial(_hint_in_ram, config)
    else:
        amount = _amount(str(error), device.free_bytes())
        where = device.name if device.is_cuda else "The machine"
        message = f"{where} ran out of memory {doing}{amount}. {held}"
        hint = partial(_hint, config)
    if not ways:
        return Problem(message.rstrip(), hint())
    return Problem(message.rstrip(), f"Resume it {ways}. {hint(resumed=True)}")


def ways_in_words(
    ways: Sequence[Way], rows_at_once: int, rows: Sequence[int], *, keeps_dequantized: bool = False
) -> str:
    """As "Resume it ..." goes on. rows_at_once: as they are now; rows: that can be left out;
    keeps_dequantized: whether weights stay so now.
    """
    and_no_weights = " and no weights kept dequantized" if keeps_dequantized else ""
    half = f"{-(-rows_at_once // 2):,} {'row' if rows_at_once <= 2 else 'rows'}"
    words = {
        "recompute": f"with all layers recomputed{and_no_weights} (slower, the same result)",
        "half_rows": f"with {half} at once (each update has the same rows)",
        "eight_bit": "with the optimizer's state in 8 bit",
        "without_rows": f"without training {'row' if len(rows) == 1 else 'rows'} {named_rows(rows)}",
    }
    said = [words[way] for way in ways]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])}, or {said[-1]}" if said else ""


def _amount(message: str, free: int) -> str:
    """What was needed, and why it wasn't there. free: bytes that anybody could take now."""
    needed = _needed_bytes(message)
    if not needed:
        return ""
    more = f": {_gib(needed)} more were needed"
    if needed > free:
        return f"{more}, {_gib(free)} are free"
    if allowed := _ALLOWED.search(message):
        return f"{more}, and this program may take no more than {_gib(_bytes_of(allowed))} of it"
    # Given back since by this or another program, or in pieces.
    return f"{more} in one piece; by now {_gib(free)} are free"


def _pinned_amount(needed: int, free: int) -> str:
    """free: bytes of RAM."""
    more = f": {_gib(needed)} more were needed for the card to copy from and to"
    if needed > free:
        return f"{more}, {_gib(free)} are free"
    return f"{more}, and the system gave none, though {_gib(free)} are free"


def _needed_bytes(message: str) -> int | None:
    if found := _ON_CPU.search(message):
        return int(found[1])
    if found := _ON_CARD.search(message):
        return _bytes_of(found)
    return None


def _bytes_of(found: re.Match[str]) -> int:
    return int(float(found[1]) * _UNITS[found[2]])


def _hint(config: RunConfig | None, *, resumed: bool = False) -> str:
    """The changes that cost least, first. resumed: what a run can do itself is told already."""
    if config is None:
        return "Close other programs that use its memory, or choose a smaller model."
    ways = []
    if not resumed and config.training.recompute not in ("all", HOST):
        ways.append("recompute all layers")
    ways += _less_at_once(config, resumed)
    if config.trains_all:
        ways.append("an adapter in place of all weights")
    elif config.lora.r > 8 and not config.lora.start_from:
        ways.append(f"rank {config.lora.r // 2}")
    ways.append("close other programs that use its memory")
    return f"In a new run try {', or '.join(ways[:3])}."


def _hint_in_ram(config: RunConfig | None, *, resumed: bool = False) -> str:
    """As `_hint`: of what lies in RAM for a card."""
    if config is None:
        return "Close other programs that use RAM."
    on_card = []
    if config.training.recompute == HOST:
        on_card.append("recompute all layers with their inputs on the card")
    if config.training.embedding_in_ram:
        on_card.append("leave the embedding on the card")
    ways = [*on_card, *_less_at_once(config, resumed), "close other programs that use RAM"]
    return f"In a new run try {', or '.join(ways[:3])}."


def _less_at_once(config: RunConfig, resumed: bool) -> Iterator[str]:
    if not resumed and config.training.batch_size > 1:
        batch, times = config.training.batch_size, config.training.gradient_accumulation
        rows = f"{batch // 2} {'row' if batch // 2 == 1 else 'rows'}"
        yield f"{rows} per step with {times * 2} accumulated"
    if config.data.seq_len > 256:
        yield f"a sequence length of {config.data.seq_len // 2:,}"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB"
