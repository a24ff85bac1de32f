"""What a checkpoint holds, written and put back: trained weights, optimizer, position and randomness."""

from __future__ import annotations

import shutil
from pathlib import Path

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.optimizer import OPTIMIZER_FILE, AdapterOptimizer
from qlora_studio.engine.trained_weights import ADAPTER, TrainedWeights
from qlora_studio.engine.trainer_state import TrainerState, write_trainer_state

# Foreign files that are copied, not opened.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def write_checkpoint(
    folder: Path, trained: TrainedWeights, optimizer: AdapterOptimizer, state: TrainerState
) -> None:
    """Into a staging folder. Raises: NonFiniteError (R12)."""
    trained.save(folder)
    optimizer.save(folder)
    write_trainer_state(folder, state)


def put_checkpoint(folder: Path, trained: TrainedWeights, optimizer: AdapterOptimizer) -> None:
    """Back into weights and optimizer; the caller has verified the folder (R2)."""
    trained.put(folder)
    optimizer.put(folder / OPTIMIZER_FILE)


def write_finished_adapter(folder: Path, adapted: AdaptedModel, model_folder: Path | None) -> None:
    """The adapter with its base's tokenizer and chat template, for any program that reads peft's format."""
    adapted.save(ADAPTER, folder)
    if model_folder is not None:
        copy_tokenizer(model_folder, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """What a person needs beside weights to talk with them: tokenizer and chat template."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def checkpoint_bytes(optimizer: AdapterOptimizer) -> int:
    """What the next one will take on the disk."""
    weights = sum(weight.nbytes for weight in optimizer.parameters.values())
    return weights + max(optimizer.state_bytes, 2 * weights)
