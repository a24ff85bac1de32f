"""Where a run stands: `state.json`, a cache of what checkpoints and metrics tell."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from qlora_studio.runs.durable import read_file, write_file_durably
from qlora_studio.runs.metric_lines import Count
from qlora_studio.runs.space import saving

STATE_FILE = "state.json"
SCHEMA_VERSION = 1

_LARGEST_STATE = 1_000_000  # bytes

State = Literal["running", "paused", "stopped", "finished", "failed", "interrupted"]


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The last known state of a run. The engine writes all but "interrupted": nobody is left to do that.

    cause:   why it failed or paused: "" | error | out_of_memory | device | non_finite | disk | died
    ways:    after out of memory: what would take less, as `less_memory.Way` has them
    rows:    of these "without_rows": the training rows, as the imported data set numbers them
    adapter: folder of the finished adapter, relative to the run folder; None where there is none yet
    """

    schema_version: int = SCHEMA_VERSION
    state: State
    step: Count
    total_steps: Count = 0
    updated: float = 0.0  # unix seconds, for display
    elapsed_s: float = 0.0  # of training, over all sittings
    loss: float | None = None
    evaluation_loss: float | None = None
    first_evaluation_loss: float | None = None
    best_evaluation_loss: float | None = None
    best_step: Count | None = None
    peak_bytes: Count = 0
    tokens_per_second: float = 0.0
    adapter: str | None = None
    cause: str = ""
    message: str = ""
    hint: str = ""
    ways: tuple[str, ...] = ()
    rows: tuple[Count, ...] = ()


class ReadState(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`, or why it says nothing."""

    state: RunState | None
    warning: str = ""


def write_state(folder: Path, state: RunState) -> None:
    """Replaces the file in one step. Raises: StudioError."""
    path = folder / STATE_FILE
    with saving("the run's state", path):
        write_file_durably(path, msgspec.json.encode(state))


def read_state(folder: Path) -> ReadState:
    """Never raises: without this file the run is rebuilt."""
    try:
        data = read_file(folder / STATE_FILE, _LARGEST_STATE)
        if msgspec.json.decode(data, type=_Version).schema_version > SCHEMA_VERSION:
            return ReadState(state=None, warning=f"{STATE_FILE} is of a newer version; it was not used")
        return ReadState(state=msgspec.json.decode(data, type=RunState))
    except FileNotFoundError:
        return ReadState(state=None)
    except OSError as error:
        return ReadState(state=None, warning=f"{STATE_FILE} can't be read: {error.strerror}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ReadState(state=None, warning=f"{STATE_FILE} is damaged; it was not used")


class _Version(msgspec.Struct):
    schema_version: int
