"""What data and its formats are called: a file by its name, a mixture by the names of its data sets."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config.run_config import SAMPLE, DataConfig

FORMAT_WORDS = {
    "alpaca": "Alpaca instructions",
    "sharegpt": "ShareGPT chats",
    "messages": "Messages",
    "prompt_completion": "Prompt and completion",
    "question_answer": "Question and answer",
    "self_instruct": "Self-Instruct",
    "unnatural_instructions": "Unnatural Instructions",
    "oasst": "OpenAssistant trees",
    "hh_rlhf": "HH-RLHF chats",
    "chip2": "Chip2",
    "longform": "LongForm",
    "flan": "FLAN",
    "preference": "Chosen and rejected",
    "kto": "Rated answers (KTO)",
    "text": "Plain text",
}
_NAMED_IN_FULL = 2  # data sets of a mixture; of more the first is named


def data_name(data: DataConfig) -> str:
    """`a.jsonl`, `a.jsonl + b.csv`, `a.jsonl + 2 more`."""
    names = [file_name(path) for path in data.paths]
    if len(names) <= _NAMED_IN_FULL:
        return " + ".join(names)
    return f"{names[0]} + {len(names) - 1:,} more"


def data_stem(data: DataConfig) -> str:
    """As part of a run's name: without the endings of files."""
    stems = ["sample" if path == SAMPLE else Path(path).stem for path in data.paths]
    if len(stems) <= _NAMED_IN_FULL:
        return " ".join(stems)
    return f"{stems[0]} and {len(stems) - 1} more"


def file_name(path: str) -> str:
    """As a title: the bundled data has a name of its own."""
    return "Sample data" if path == SAMPLE else Path(path).name


def format_words(format: str) -> str:
    """As on a chip, or in a list."""
    return FORMAT_WORDS.get(format, format.replace("_", " ").capitalize())
