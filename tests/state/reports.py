"""What a reader answers about a sound model and a sound data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qlora_studio.data.report import ImportReport
from qlora_studio.data.token_view import Lengths
from qlora_studio.models.report import ModelReport
from qlora_studio.models.shapes import known_shape


def model_report(folder: str | Path = "/models/tiny", **changes: Any) -> ModelReport:
    """Of SmolLM2's shape."""
    shape = known_shape("smollm2-135m")
    values: dict[str, Any] = {
        "folder": str(folder),
        "name": Path(folder).name,
        "family": "llama",
        "parameters": shape.parameters,
        "tensors": 272,
        "bytes": 269_060_552,
        "shape": shape,
        "has_template": True,
        "template_sha256": "a41f09c2" + "0" * 56,
        "licence": "apache-2.0",
        "max_position_embeddings": 8192,
        "warnings": (),
        "target_modules": ("q_proj",),
    }
    return ModelReport(**values | changes)


def import_report(path: str = "/data/chats.jsonl", **changes: Any) -> ImportReport:
    """300 chats, none skipped."""
    values: dict[str, Any] = {
        "path": path,
        "rows_in": 300,
        "imported": 300,
        "skipped": 0,
        "merged": 0,
        "conversations": 300,
        "format": "messages",
        "encoding": "utf-8",
        "sha256": "f" * 64,
        "problems": (),
        "findings": (),
    }
    return ImportReport(**values | changes)


def counted(folder: Path, tokens: list[int], learned: list[int] | None = None) -> dict[str, Any]:
    """The fields of TokensCounted for rows of these lengths."""
    rows = np.array([tokens, learned or tokens], dtype=np.int32).T
    file = folder / "lengths.npy"
    np.save(file, rows)
    lengths = Lengths(
        file=str(file),
        rows=len(tokens),
        tokens=sum(tokens),
        learned_tokens=int(rows[:, 1].sum()),
        longest=max(tokens),
        median=int(np.median(tokens)),
        nothing_to_learn=int((rows[:, 1] == 0).sum()),
        template_sha256="",
    )
    bins = tuple(int(count) for count in np.bincount(rows[:, 0] // 16))
    return {"lengths": lengths, "too_long": 0, "bins": bins, "bin_width": 16}


def chat_encoded(ids: int = 12, context: int = 8192) -> dict[str, Any]:
    """The fields of ChatEncoded."""
    return {
        "ids": tuple(range(ids)),
        "text": "<|user|>Hello",
        "template_sha256": "a41f09c2" + "0" * 56,
        "context": context,
        "stop_ids": (2,),
    }


PREPARED: dict[str, Any] = {  # the fields of RunPrepared
    "steps": 400,
    "train_rows": 19,
    "validation_rows": 1,
    "learned_tokens": 900,
    "report": import_report("chats.jsonl", rows_in=20, imported=20, conversations=20),
    "promise_bytes": {},
}
CHECKED_ADAPTER: dict[str, Any] = {"r": 8, "target_modules": ("q_proj",), "warnings": ()}
