"""Imported rows as a JSON lines file that gives the same rows when it is imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.path_text import path_text
from qlora_studio.errors import StudioError

_TELL_EVERY = 1000  # rows

Told = Callable[[int, int, str], None]


def save_rows(dataset: Dataset, path: Path, told: Told) -> str:
    """Chats as `messages`, pairs as `chosen` and `rejected`, texts as `text`. The file's SHA-256.

    Raises: StudioError where `path` is there already, can't be written, or the rows fit no single format.
    """
    _refuse_different_kinds(dataset)
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
                line = json.dumps(_record(row), ensure_ascii=False).encode("utf-8") + b"\n"
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


def _record(row: Row) -> dict[str, Any]:
    if row.text is not None:
        return {"text": row.text}
    messages = [_turn(message) for message in row.messages]
    record: dict[str, Any] = {"messages": messages}
    if row.rejected:
        record = {"chosen": messages, "rejected": [_turn(message) for message in row.rejected]}
    if row.label is not None:
        record["label"] = row.label
    if row.tools:
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
