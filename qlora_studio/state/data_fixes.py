"""Fixes of imported rows, each a step that can be undone: the file itself is never changed (D2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from PySide6.QtGui import QUndoCommand

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.report import Finding, FixCount, ImportReport

LEFT_OUT = {
    "equal_rows": ("equal row was left out", "equal rows were left out"),
    "near_duplicates": ("copy was left out", "copies were left out"),
    "test_rows": ("row of the test file was left out", "rows of the test file were left out"),
    "contradictions": ("further answer was left out", "further answers were left out"),
    "empty_answers": ("row with an empty answer was left out", "rows with an empty answer were left out"),
    "refusals": ("refusal was left out", "refusals were left out"),
    "cut_sentences": ("cut answer was left out", "cut answers were left out"),
    "broken_encoding": ("row was mended", "rows were mended"),
    "rows": ("row was left out by its number", "rows were left out by their number"),
}


class DataStep(QUndoCommand):
    """Another recipe or mixture; undone, the one before."""

    def __init__(self, take: Callable[[DataConfig], None], before: DataConfig, after: DataConfig) -> None:
        super().__init__()
        self._take = take
        self._before, self._after = before, after

    def redo(self) -> None:
        self._take(self._after)

    def undo(self) -> None:
        self._take(self._before)


@dataclass(frozen=True)
class AppliedFix:
    """A fix in force.

    part:  the place in the mixture of the data set that it mends; None: it mends all rows
    place: in the recipe
    """

    part: int | None
    place: int
    words: str


def applied_fixes(report: ImportReport, sets: Sequence[tuple[str, ImportReport]]) -> list[AppliedFix]:
    """sets: name and report of each data set of a mixture."""
    return [
        *(
            AppliedFix(part, place, f"{name}: {fix_words(count)}")
            for part, (name, own) in enumerate(sets)
            for place, count in enumerate(own.fixes)
        ),
        *(AppliedFix(None, place, fix_words(count)) for place, count in enumerate(report.fixes)),
    ]


def with_fix(data: DataConfig, fix: Fix) -> DataConfig:
    """As the last one of the recipe."""
    return msgspec.structs.replace(data, recipe=(*data.recipe, fix))


def without_fix(data: DataConfig, place: int) -> DataConfig:
    """place: in the recipe, from 0."""
    return msgspec.structs.replace(data, recipe=data.recipe[:place] + data.recipe[place + 1 :])


def lies_within(finding: Finding, rows: range) -> bool:
    """Whether its fix has something to mend among these alone: a row, or two of a group.

    Of rows that equal each other in different data sets, none does.
    """
    if finding.kind == "equal_across_sets":
        return False
    if finding.groups:
        return any(sum(row in rows for row in group) > 1 for group in finding.groups)
    return any(row in rows for row in finding.rows)


def for_other_rows(recipe: tuple[Fix, ...]) -> tuple[Fix, ...]:
    """What still holds where the file is read in another way: not what names rows by their numbers."""
    return tuple(fix for fix in recipe if fix.kind != "rows")


def fix_words(count: FixCount) -> str:
    """What a fix did: "12 copies were left out"."""
    number = count.mended if count.fix.kind == "broken_encoding" else count.left_out
    one, many = LEFT_OUT[count.fix.kind]
    return f"{number:,} {one if number == 1 else many}"
