"""A file made and imported in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.conversation import Row
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.importing import import_data


def import_path(
    path: Path | str, format: str = "auto", map: dict[str, str] | None = None, **how: Any
) -> Dataset:
    """The rows of a file or folder."""
    data = DataConfig(path=str(path), format=format, map=map or {}, **how)
    return open_dataset(import_data(data, lambda done, total, words: None).dataset)


def import_bytes(
    file: Path, content: bytes, format: str = "auto", map: dict[str, str] | None = None, **how: Any
) -> Dataset:
    """The rows of a file with this content."""
    file.write_bytes(content)
    return import_path(file, format, map, **how)


def turns(row: Row) -> list[tuple[str, str]]:
    """Role and content of each message."""
    return [(message.role, message.content) for message in row.messages]


def reasons(data: Dataset) -> dict[str, list[int]]:
    """Why records were skipped, with the lines."""
    return {problem.reason: list(problem.lines) for problem in data.report.problems}


def findings(data: Dataset) -> dict[str, int]:
    """How often each kind was found."""
    return {finding.kind: finding.count for finding in data.report.findings}
