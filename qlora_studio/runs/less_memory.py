"""`less_memory.json`: what a run does to take less memory, as a person chose; `run.json` stays as it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import read_file, write_file_durably
from qlora_studio.runs.metric_lines import Count
from qlora_studio.runs.metrics_search import ran_out_of_memory
from qlora_studio.runs.run_record import RunRecord
from qlora_studio.runs.run_state import RunState, read_state
from qlora_studio.runs.space import saving

LESS_MEMORY_FILE = "less_memory.json"
SCHEMA_VERSION = 1

Way = Literal["recompute", "half_rows", "eight_bit", "without_rows"]  # least harm first
HELD = "Held were"  # begins what a message on want of memory tells beside what happened
WAYS: tuple[Way, ...] = get_args(Way)

_LARGEST = 4_000_000  # bytes
_NAMED = 6  # rows in a sentence


class LessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Beside the settings of `run.json`, from the next sitting on.

    rows_at_once: of the batch; 0: as set. An update has as many rows as before, spread over more batches
    left_out:     training rows that are computed no more, as the imported data set numbers them, ascending
    """

    schema_version: int = SCHEMA_VERSION
    recompute_all: bool = False
    rows_at_once: Count = 0
    eight_bit_optimizer: bool = False
    left_out: tuple[Count, ...] = ()

    def rows_of(self, record: RunRecord) -> int:
        """At once."""
        return self.rows_at_once or record.config.training.batch_size

    def joined(self, other: LessMemory) -> LessMemory:
        """All that either of them does: a checkpoint knows what it was made with, if the file is lost."""
        rows = [count for count in (self.rows_at_once, other.rows_at_once) if count]
        return LessMemory(
            recompute_all=self.recompute_all or other.recompute_all,
            rows_at_once=min(rows, default=0),
            eight_bit_optimizer=self.eight_bit_optimizer or other.eight_bit_optimizer,
            left_out=tuple(sorted({*self.left_out, *other.left_out})),
        )

    def words(self, record: RunRecord) -> tuple[str, ...]:
        """A sentence for each, for a person."""
        said = []
        if self.recompute_all:
            kept = record.device == "cuda" and record.config.training.keep_dequantized
            recomputed = "All layers are recomputed"
            if kept:
                recomputed += ", and weights aren't kept dequantized"
            said.append(f"{recomputed}, as the run was short of memory before; its result is the same.")
        if self.rows_at_once:
            of = record.config.training.batch_size
            said.append(
                f"{_rows(self.rows_at_once)} at once instead of {of:,}; an update has as many as before."
            )
        if self.eight_bit_optimizer:
            said.append("The optimizer keeps its state in 8 bit.")
        if self.left_out:
            verb = "is" if len(self.left_out) == 1 else "are"
            said.append(f"{_rows(len(self.left_out))} {verb} left out: {named_rows(self.left_out)}.")
        return tuple(said)


def ways_for(
    record: RunRecord, less: LessMemory, *, recomputed: bool, rows: Collection[int]
) -> tuple[Way, ...]:
    """What would take less memory than the run does now.

    recomputed: whether all its layers are already, and no weights stay dequantized on a card
    rows:       that could be left out
    """
    eight_bit = less.eight_bit_optimizer or record.config.training.optimizer == "paged_adamw_8bit"
    offered: dict[Way, bool] = {
        "recompute": not recomputed,
        "half_rows": less.rows_of(record) > 1,
        "eight_bit": record.device == "cuda" and not eight_bit,
        "without_rows": bool(rows),
    }
    return tuple(way for way in WAYS if offered[way])


def less_after(folder: Path, record: RunRecord, ways: Sequence[Way]) -> LessMemory:
    """What the run does after these were chosen. A run that ran out of memory recomputes, where that helps
    and nothing else is chosen. Raises: StudioError where a way doesn't change anything.
    """
    state = read_state(folder).state
    less = _kept(folder, state)
    if not ways and state is not None and state.cause == "out_of_memory" and "recompute" in state.ways:
        ways = ("recompute",)
    for way in ways:
        less = _with(less, way, record, state)
    return less


def write_less_memory(folder: Path, less: LessMemory) -> None:
    """Raises: StudioError."""
    path = folder / LESS_MEMORY_FILE
    with saving("what the run does to take less memory", path):
        write_file_durably(path, msgspec.json.format(msgspec.json.encode(less)))


def read_less_memory(folder: Path) -> LessMemory | None:
    """None where nothing was chosen. Raises: StudioError where that can't be told."""
    path = folder / LESS_MEMORY_FILE
    try:
        less = msgspec.json.decode(read_file(path, _LARGEST), type=LessMemory)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(
            f"{path} can't be read: {error}.",
            hint="Without that file the run goes on as its newest checkpoint was made.",
        ) from error
    if less.schema_version > SCHEMA_VERSION:
        raise StudioError(f"{path} was written by a newer version.", hint="Update QLoRA Studio.")
    return less


def named_rows(rows: Sequence[int]) -> str:
    """Counted from 1, the first ones."""
    named = ", ".join(f"{row + 1:,}" for row in rows[:_NAMED])
    return f"{named} and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else named


def _kept(folder: Path, state: RunState | None) -> LessMemory:
    kept = read_less_memory(folder)
    if kept is not None:
        return kept
    # Before there was this file, a run that had run out of memory recomputed all layers when it went on.
    already = ran_out_of_memory(folder) and not (state is not None and "recompute" in state.ways)
    return LessMemory(recompute_all=already)


def _with(less: LessMemory, way: Way, record: RunRecord, state: RunState | None) -> LessMemory:
    match way:
        case "recompute":
            return msgspec.structs.replace(less, recompute_all=True)
        case "half_rows":
            rows = less.rows_of(record)
            if rows == 1:
                raise StudioError("One row is computed at once already; that can't be halved.")
            return msgspec.structs.replace(less, rows_at_once=-(-rows // 2))
        case "eight_bit":
            if record.device != "cuda":
                raise StudioError("On a processor the optimizer has no 8-bit state.")
            return msgspec.structs.replace(less, eight_bit_optimizer=True)
        case "without_rows":
            rows_named = state.rows if state is not None else ()
            if not rows_named:
                raise StudioError("No rows were named that the run could go on without.")
            return less.joined(LessMemory(left_out=tuple(sorted(rows_named))))


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
