"""What an import counted, skipped and found."""

from __future__ import annotations

import msgspec

from qlora_studio.config.data_parts import Fix
from qlora_studio.data.limits import MANY_SKIPPED


class SkipReason(msgspec.Struct, frozen=True):
    """Why `count` records were skipped; `line` is the first of them."""

    line: int
    reason: str
    count: int
    lines: tuple[int, ...] = ()  # the first thousand
    by_design: bool = False  # the format itself leaves such records out; the file has no fault


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the doctor sees. `tone`: bad | warn | info | ok."""

    kind: str
    tone: str
    count: int
    words: str
    why: str
    rows: tuple[int, ...] = ()  # the first thousand
    groups: tuple[tuple[int, ...], ...] = ()  # rows that belong together; in all the first thousand
    fix: Fix | None = None  # what would mend it
    fix_words: str = ""  # as on a button: "Leave out 12 copies"


class FixCount(msgspec.Struct, frozen=True):
    """What one fix of a recipe did."""

    fix: Fix
    left_out: int
    mended: int = 0  # rows whose text was changed


class PartReport(msgspec.Struct, frozen=True):
    """One data set of a mixture. `first_row`: of its rows in the mixture's."""

    path: str
    weight: float
    first_row: int
    rows: int
    sha256: str
    left_out_by_fixes: int = 0


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """rows_in = imported + skipped + merged, always, in records of the file.

    imported:      records that gave rows
    merged:        records equal to earlier ones, and messages of a tree that are turns of a row
    conversations: rows; a record may give several
    fixes:         what a recipe did to the rows; `conversations` is what it left
    left_out:      of the skipped, what the format itself leaves out, as the lower-ranked replies of a tree
    """

    path: str
    rows_in: int
    imported: int
    skipped: int
    merged: int
    conversations: int
    format: str
    encoding: str
    sha256: str
    problems: tuple[SkipReason, ...]
    findings: tuple[Finding, ...]
    columns: tuple[str, ...] = ()
    map: dict[str, str] = {}
    guess: str = ""  # the reason for format and map
    left_out: int = 0
    fixes: tuple[FixCount, ...] = ()
    parts: tuple[PartReport, ...] = ()  # of a mixture

    @property
    def left_out_by_fixes(self) -> int:
        """Rows, over all fixes of the recipe, or of the recipes of a mixture."""
        return sum(fix.left_out for fix in self.fixes) + sum(part.left_out_by_fixes for part in self.parts)

    @property
    def unusable(self) -> int:
        """Records that were skipped for a fault of theirs: what a person is asked about (D3)."""
        return self.skipped - self.left_out

    @property
    def skipped_words(self) -> str:
        """How many were, and the first reasons; empty where none was."""
        if not self.skipped:
            return ""
        reasons = ", ".join(
            f"{problem.reason} ({'' if problem.count == 1 else f'{problem.count:,}, first in '}"
            f"line {problem.line:,})"
            for problem in self.problems[:2]
        )
        return f"{self.skipped:,} of {self.rows_in:,} rows skipped: {reasons}."

    @property
    def many_skipped(self) -> bool:
        """More than goes without asking (D3)."""
        return self.unusable > MANY_SKIPPED * self.rows_in
