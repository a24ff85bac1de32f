"""What a run was started with: `run.json`, written once and never changed (R6)."""

from __future__ import annotations

import os
import typing
from codecs import BOM_UTF8
from pathlib import Path
from typing import Annotated, Any

import msgspec

from qlora_studio.config.run_config import RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import read_file, write_file_durably
from qlora_studio.runs.metric_lines import Count
from qlora_studio.runs.space import saving

RECORD_FILE = "run.json"
SCHEMA_VERSION = 1

_LARGEST_RECORD = 8_000_000  # bytes
_LATEST = 253_000_000_000  # unix seconds: beyond, no calendar of Python has a day


class Hashes(msgspec.Struct, frozen=True, kw_only=True):
    """SHA-256 of what the run was made from; empty where there is none. Other bytes are another run (R3)."""

    model: str = ""
    data: str = ""
    template: str = ""
    tokenizer: str = ""
    start: str = ""  # the weights of the adapter that is trained on


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The tokenized rows, a folder of the cache, and how many there are.

    questions: those of `checkpoints.questions`, another folder of it; empty where there are none
    """

    folder: str = ""
    steps: Count = 0
    train_rows: Count = 0
    validation_rows: Count = 0
    tokens: Count = 0
    learned_tokens: Count = 0
    questions: str = ""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `run.json`.

    config:        as resolved: dtype, recompute plan and steps stand in it as they are run
    promise_bytes: the VRAM promise by part
    parent:        the run folder whose settings these were, for a "new run from"
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    created: Annotated[float, msgspec.Meta(ge=0, le=_LATEST)]  # unix seconds, for display
    config: RunConfig
    model_folder: str = ""
    model_name: str = ""
    device: str = "cpu"  # "cuda" | "cpu"
    device_name: str = ""
    seed: int = 0
    hashes: Hashes = Hashes()
    prepared: Prepared = Prepared()
    versions: dict[str, str] = {}
    promise_bytes: dict[str, int] = {}
    notes: tuple[str, ...] = ()  # what will run otherwise than asked
    parent: str | None = None


class ReadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json` as this version understands it.

    newer:        a newer version wrote it; the run can be looked at, not written to (R15)
    unknown_keys: settings this version does not know, such as "training.lookahead"
    """

    record: RunRecord
    newer: bool = False
    unknown_keys: tuple[str, ...] = ()


def write_record(folder: Path, record: RunRecord) -> None:
    """Once, into a new run folder. Raises: StudioError; also where there is one already (R6)."""
    path = folder / RECORD_FILE
    if os.path.lexists(path):
        raise StudioError(f"{path} exists already; it never changes.")
    try:
        data = msgspec.json.encode(record)
    except UnicodeEncodeError as error:
        raise StudioError(
            f"The run's settings hold {error.object[:500]!a}, which is no UTF-8; {path.name} can't keep it.",
            hint="Rename that file or folder, or lay a link with a plain name to it.",
        ) from error
    with saving("the run's settings", path):
        write_file_durably(path, msgspec.json.format(data))


def read_record(folder: Path) -> ReadRecord:
    """Raises: StudioError naming `run.json` and what is wrong with it."""
    path = folder / RECORD_FILE
    newer = False
    try:
        data = read_file(path, _LARGEST_RECORD).removeprefix(BOM_UTF8)  # as some editors put one first
        newer = msgspec.json.decode(data, type=_Version).schema_version > SCHEMA_VERSION
        try:
            return ReadRecord(record=msgspec.json.decode(data, type=RunRecord), newer=newer)
        except msgspec.ValidationError:
            values = msgspec.json.decode(data, type=dict[str, Any])  # new optional keys need no new version
            config, unknown = _known(values.get("config"), RunConfig)
            record = msgspec.convert({**values, "config": config}, RunRecord)
            return ReadRecord(record=record, newer=newer, unknown_keys=tuple(unknown))
    except FileNotFoundError as error:
        raise StudioError(f"{folder} holds no run: {RECORD_FILE} is missing.") from error
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if newer:
            raise StudioError(
                f"{path} was written by a newer version.", hint="Update QLoRA Studio."
            ) from error
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StudioError(
            f"{path} is damaged: {words}.", hint="Checkpoints and adapter of this run may still be whole."
        ) from error


class _Version(msgspec.Struct):
    schema_version: int


def _known(values: Any, struct: type[msgspec.Struct], prefix: str = "") -> tuple[Any, list[str]]:
    """`values` without the keys that `struct` doesn't have, and these keys."""
    if not isinstance(values, dict):
        return values, []
    hints = typing.get_type_hints(struct)
    unknown = [f"{prefix}{key}" for key in values if key not in hints]
    kept = {}
    for key in hints.keys() & values.keys():
        kept[key] = values[key]
        if isinstance(hints[key], type) and issubclass(hints[key], msgspec.Struct):
            kept[key], deeper = _known(values[key], hints[key], f"{prefix}{key}.")
            unknown += deeper
    return kept, sorted(unknown)
