"""The questions that a run asks at its evaluations: a file of its own, tokenized as the run's rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import QUESTION_TOKENS, RunConfig
from qlora_studio.data.choice_questions import questions_or_why_not
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.other_file import import_test
from qlora_studio.data.prepared import PreparedRows, check_content, open_prepared
from qlora_studio.data.preparing import prepare_for_evaluation
from qlora_studio.data.tokenizer import ModelTokenizer
from qlora_studio.errors import StudioError
from qlora_studio.reader.model_text import ModelTexts

Told = Callable[[int, int, str], None]

_LOOKED_AT = 1_000  # rows


@dataclass(frozen=True)
class Questions:
    """notes: what of the file isn't asked."""

    rows: PreparedRows
    notes: tuple[str, ...]


def prepare_questions(config: RunConfig, texts: ModelTexts, told: Told) -> Questions:
    """From the cache where they were prepared before.

    Raises: StudioError naming the file, and the line of the first row that asks for no letter.
    """
    alone, file = _as_asked(config), config.checkpoints.questions
    imported = import_test(file, "auto", alone.data, told, "save it as UTF-8")
    dataset = open_dataset(imported.dataset)
    text = texts.of(config.model.path)
    rows = prepare_for_evaluation(dataset, text.encoder(alone.data, alone.training.method), alone, told)
    for row, question in questions_or_why_not(rows, text.tokenizer):
        if isinstance(question, str):
            raise StudioError(
                f"{file} is no multiple choice: line {dataset.row(row).line:,}: {question}.",
                hint="Mend it, choose another file for checkpoints.questions, or leave that empty.",
            )
    skipped = imported.report.skipped_words
    return Questions(rows, (*([skipped] if skipped else []), *rows.info.notes))


def few_ask_otherwise(rows: PreparedRows, dataset: Dataset, tokenizer: ModelTokenizer) -> Iterator[str]:
    """A note where some of the first rows ask for letters and others don't, so that none is asked so."""
    each = list(islice(questions_or_why_not(rows, tokenizer), _LOOKED_AT))
    otherwise = [(row, question) for row, question in each if isinstance(question, str)]
    if 0 < len(otherwise) < len(each):
        row, why = otherwise[0]
        yield (
            f"Whole answers are compared, not letters: {len(otherwise):,} of {len(each):,} rows have none, "
            f"the first in line {dataset.row(row).line:,}: {why}."
        )


def require_questions(config: RunConfig, folder: Path, texts: ModelTexts, told: Told) -> None:
    """Of a run that goes on; made again where the cache was cleared.

    Raises: StudioError where the file gives other questions now, or they were changed.
    """
    if not folder.is_dir() and prepare_questions(config, texts, told).rows.folder != folder:
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
