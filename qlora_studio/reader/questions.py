"""The questions that a run asks at its evaluations: a file of its own, tokenized as the run's rows are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import QUESTION_TOKENS, RunConfig
from qlora_studio.data.dataset import open_dataset
from qlora_studio.data.other_file import import_test
from qlora_studio.data.prepared import PreparedRows, check_content, open_prepared
from qlora_studio.data.preparing import prepare_for_evaluation
from qlora_studio.errors import StudioError
from qlora_studio.reader.model_text import ModelTexts

Told = Callable[[int, int, str], None]


def prepare_questions(config: RunConfig, texts: ModelTexts, told: Told) -> PreparedRows:
    """From the cache where they were prepared before. Raises: StudioError naming the file."""
    alone = _as_asked(config)
    imported = import_test(config.checkpoints.questions, "auto", alone.data, told, "save it as UTF-8")
    encoder = texts.of(config.model.path).encoder(alone.data, alone.training.method)
    return prepare_for_evaluation(open_dataset(imported.dataset), encoder, alone, told)


def require_questions(config: RunConfig, folder: Path, texts: ModelTexts, told: Told) -> None:
    """Of a run that goes on; made again where the cache was cleared.

    Raises: StudioError where the file gives other questions now, or they were changed.
    """
    if not folder.is_dir() and prepare_questions(config, texts, told).folder != folder:
        raise StudioError(
            f"The questions of this run are gone from {folder}, and {config.checkpoints.questions} changed.",
            hint="Put the old file back, or start a new run.",
        )
    check_content(open_prepared(folder))


def _as_asked(config: RunConfig) -> RunConfig:
    """Prompts with examples are long: they have a length of their own, and what is longer is left out."""
    seq_len = max(QUESTION_TOKENS, config.data.seq_len)
    data = msgspec.structs.replace(config.data, seq_len=seq_len, too_long="drop", train_on="answers")
    training = msgspec.structs.replace(config.training, method="sft")
    return msgspec.structs.replace(config, data=data, training=training)
