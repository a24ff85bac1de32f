"""What a reader answers about a sound model and a sound data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qlora_studio.data.report import ImportReport
from qlora_studio.data.token_view import Lengths
from qlora_studio.models.quantization_report import (
    LayerErrors,
    Levels,
    Perplexity,
    QuantizationReport,
    QuantSetting,
)
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


def quantization_report(**changes: Any) -> QuantizationReport:
    """Of four layers in NF4, FP4 and INT4, with blocks of 64, and a text."""
    settings = [
        QuantSetting(
            quant_type=kind, block_size=64, double_quant=double,
            bits_per_weight=4.127 if double else 4.5, relative_error=error,
        )
        for kind, error in (("nf4", 0.08), ("fp4", 0.11), ("int4", 0.1))
        for double in (False, True)
    ]  # fmt: skip
    names = [f"model.layers.{at}.mlp.down_proj" for at in range(4)]
    layers = [
        LayerErrors(
            name=name, weights=1000, largest=5.0, errors=tuple(item.relative_error for item in settings)
        )
        for name in names
    ]
    losses = (("none", False, 0.0), ("nf4", False, 0.03), ("nf4", True, 0.031), ("fp4", False, 0.09),
              ("int4", False, 0.08))  # fmt: skip
    values: dict[str, Any] = {
        "model": "tiny",
        "weights": 4000,
        "block_size": 64,
        "settings": tuple(settings),
        "layers": tuple(layers),
        "bins": tuple(range(64)) + tuple(range(64))[::-1],
        "levels": (
            Levels(quant_type="nf4", values=tuple(at / 8 - 1 for at in range(16)), counts=(250,) * 16),
        ),
        "text": "/data/some.txt",
        "tokens": 4096,
        "compute_dtype": "float32",
        "perplexities": tuple(
            Perplexity(
                quant_type=kind, double_quant=double, loss=2.0 + more, error=0.05, more=more, more_error=0.004
            )
            for kind, double, more in losses
        ),
        "device": "test",
        "seconds": 1.0,
    }
    return QuantizationReport(**values | changes)


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
