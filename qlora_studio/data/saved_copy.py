"""Imported rows as a JSON lines file that gives the same rows when it is imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from qlora_studio.data.chats import turns_of
from qlora_studio.data.column_names import PLAIN_TEXT
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.path_text import path_text
from qlora_studio.data.transcripts import MARKS, is_transcript
from qlora_studio.errors import StudioError

_TELL_EVERY = 1000  # rows

Told = Callable[[int, int, str], None]


def save_rows(dataset: Dataset, path: Path, told: Told) -> str:
    """Chats as `messages`, pairs as `chosen` and `rejected`, texts as `text`. The file's SHA-256.

    Raises: StudioError where `path` is there already, can't be written, or the rows fit no single format.
    """
    _refuse_different_kinds(dataset)
    spelling = _spelling(dataset)
    if path.exists() or path.is_symlink():
        raise StudioError(f"{path_text(path)} is there already.", hint="Choose another name.")
    staging = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".saving-", delete=False) as file:
            staging = Path(file.name)
            digest = hashlib.sha256()
            for row in dataset:
                if row.row % _TELL_EVERY == 0:
                    told(row.row, len(dataset), "Writing rows")
                line = json.dumps(_record(row, spelling), ensure_ascii=False).encode("utf-8") + b"\n"
                _refuse_too_long(line, row)
                digest.update(line)
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        _give_name(staging, path)
    except FileExistsError as error:
        raise StudioError(f"{path_text(path)} is there already.", hint="Choose another name.") from error
    except OSError as error:
        raise StudioError(f"{path_text(path)} can't be written: {error.strerror or error}.") from error
    finally:
        if staging is not None:
            staging.unlink(missing_ok=True)
    return digest.hexdigest()


def _give_name(staging: Path, path: Path) -> None:
    """Takes no other file's place, also where one appeared in this moment."""
    try:
        os.link(staging, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        with path.open("xb"):
            pass
        staging.replace(path)
    with contextlib.suppress(OSError):
        path.chmod(0o666 & ~_umask())  # a temporary file is private; this one is the person's own


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _refuse_different_kinds(dataset: Dataset) -> None:
    kinds = {kind for batch in dataset.batches() for kind in _kinds(batch)}
    if len(kinds) > 1:
        raise StudioError(
            f"These rows are of different kinds: {', '.join(sorted(kinds))}. One file holds one kind.",
            hint="Save a copy of each data set of the mixture.",
        )


def _kinds(batch: Any) -> set[str]:
    rows = batch.num_rows
    texts = rows - batch.column("text").null_count
    pairs = rows - batch.column("shared").null_count
    rated = rows - batch.column("label").null_count
    found = {"texts": texts, "pairs of answers": pairs, "rated answers": rated}
    found["chats"] = rows - texts - pairs - rated
    return {kind for kind, count in found.items() if count}


@dataclass(frozen=True)
class _Spelling:
    """What all records of a copy have in common, so that the first ones show what the file is.

    text:      the column of texts
    has_tools: whether any chat may call tools
    """

    text: str
    has_tools: bool


def _spelling(dataset: Dataset) -> _Spelling:
    batches = list(dataset.batches())
    talks = any(_may_be_a_talk(text) for batch in batches for text in _odd_texts(batch))
    has_tools = any(batch.column("tools").null_count < batch.num_rows for batch in batches)
    return _Spelling(PLAIN_TEXT if talks else "text", has_tools)


def _odd_texts(batch: Any) -> Iterator[str]:
    """Those that may be more than texts; nearly all are told apart by one pattern."""
    texts = batch.column("text").drop_null()
    for text in texts.filter(pc.match_substring_regex(texts, pattern=r"(?i)human>?:|^\s*\[")):
        yield text.as_py()


def _may_be_a_talk(text: str) -> bool:
    """Whether a text would be read as the turns of a chat in a column that may hold them."""
    return isinstance(turns_of(text), list) or any(is_transcript(text, format) for format in MARKS)


def _refuse_too_long(line: bytes, row: Row) -> None:
    if len(line) > MAX_ROW_BYTES:
        raise StudioError(
            f"Row {row.row:,} takes more than {MAX_ROW_BYTES / 1e6:.0f} MB as JSON.",
            hint="It couldn't be read again: leave it out first.",
        )


def _record(row: Row, spelling: _Spelling) -> dict[str, Any]:
    if row.text is not None:
        return {spelling.text: row.text}
    messages = [_turn(message) for message in row.messages]
    record: dict[str, Any] = {"messages": messages}
    if row.rejected:
        record = {"chosen": messages, "rejected": [_turn(message) for message in row.rejected]}
    if row.label is not None:
        record["label"] = row.label
    if spelling.has_tools:
        record["tools"] = row.tools
    return record


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.loss_weight is not None:
        turn["loss_weight"] = message.loss_weight
    if message.name:
        turn["name"] = message.name
    if message.reasoning:
        turn["reasoning"] = message.reasoning
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return turn
