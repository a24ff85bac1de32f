"""`trainer.json` of a checkpoint: where training stands, and what must not change on resume (R3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qlora_studio.config.run_config import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    PreferenceConfig,
    TrainingConfig,
)
from qlora_studio.engine.random_state import RandomState
from qlora_studio.errors import StudioError
from qlora_studio.runs.less_memory import LessMemory
from qlora_studio.runs.run_record import Hashes, RunRecord

TRAINER_FILE = "trainer.json"
SCHEMA_VERSION = 1


class Position(msgspec.Struct, kw_only=True):
    """Where training stands after `step`. The only struct that changes while it runs.

    epoch, update:      the next update is number `update` of pass `epoch`, both from 0
    evaluated_step:     of the newest evaluation
    without_better:     evaluations since the best one
    non_finite_in_row:  updates that were not made, the newest ones
    loss_scale:         gradients are made this much larger in float16
    """

    step: int = 0
    epoch: int = 0
    update: int = 0
    elapsed_s: float = 0.0
    loss: float | None = None
    evaluation_loss: float | None = None
    first_evaluation_loss: float | None = None
    best_evaluation_loss: float | None = None
    best_step: int | None = None
    evaluated_step: int | None = None
    without_better: int = 0
    non_finite_in_row: int = 0
    loss_scale: float = 1.0
    scale_steady_for: int = 0


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What the numbers of a run depend on; the same on resume, or it is another run."""

    model: ModelConfig
    data: DataConfig
    lora: LoraConfig
    training: TrainingConfig
    preference: PreferenceConfig = PreferenceConfig()
    hashes: Hashes
    rows_sha256: str  # of every token id and weight
    total_steps: int
    compute_dtype: str
    device: str  # "cuda" | "cpu"


class TrainerState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `less`: what the run did to take less memory."""

    schema_version: int = SCHEMA_VERSION
    position: Position
    random: RandomState
    fixed: Fixed
    less: LessMemory = LessMemory()


def fixed_of(record: RunRecord, rows_sha256: str, total_steps: int, compute_dtype: str) -> Fixed:
    """The settings of `run.json` that count; where its files lie, how much is recomputed and where weights
    lie in memory do not.
    """
    config = record.config
    training = msgspec.structs.replace(config.training, recompute="auto", compile="auto", devices="auto")
    training = msgspec.structs.replace(training, keep_dequantized=False, embedding_in_ram=False)
    return Fixed(
        model=msgspec.structs.replace(config.model, path="", compute_dtype="auto"),
        data=msgspec.structs.replace(config.data, path=""),
        lora=msgspec.structs.replace(config.lora, start_from=""),  # the hash says which
        training=training,
        preference=config.preference,
        hashes=record.hashes,
        rows_sha256=rows_sha256,
        total_steps=total_steps,
        compute_dtype=compute_dtype,
        device=record.device,
    )


def require_same(saved: Fixed, now: Fixed, where: Path) -> None:
    """Raises: StudioError naming the first setting that differs (R3)."""
    before, after = dict(_flat(msgspec.to_builtins(saved))), dict(_flat(msgspec.to_builtins(now)))
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            raise StudioError(
                f"{where}: {key} was {before.get(key)!r} when this was saved and is {after.get(key)!r} now; "
                "a run can't go on with other numbers.",
                hint="Start a new run with the new settings.",
            )


def write_trainer_state(folder: Path, state: TrainerState) -> None:
    """Part of a checkpoint; its manifest comes last."""
    (folder / TRAINER_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(state)))


def read_trainer_state(folder: Path) -> TrainerState:
    """Of a checkpoint that verifies. Raises: StudioError."""
    file = folder / TRAINER_FILE
    try:
        data = file.read_bytes()
        if msgspec.json.decode(data, type=_Version).schema_version > SCHEMA_VERSION:
            raise StudioError(f"{file} was written by a newer version.", hint="Update QLoRA Studio.")
        return msgspec.json.decode(data, type=TrainerState)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(f"{file} can't be read: {error}.") from error


class _Version(msgspec.Struct):
    schema_version: int


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
