"""Rows of a run's data that another page leads to: which, how they were read, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qlora_studio.config.run_config import DataConfig


@dataclass(frozen=True)
class NamedRows:
    """rows: as the imported data set numbers them, from 0, in the order they are to be listed.

    sha256: of the data when the rows were named; empty where that isn't known
    words:  such as "the 3 rows of step 1,317"
    """

    data: DataConfig
    rows: tuple[int, ...]
    words: str
    sha256: str = ""


def longest_first(rows: Sequence[int], tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Rows with their tokens; as they come, and with 0, where no tokens are known."""
    return sorted(zip(rows, tokens or [0] * len(rows), strict=True), key=lambda row: -row[1])
