"""What an import counted, skipped and found."""

from __future__ import annotations

import msgspec


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


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """rows_in = imported + skipped + merged, always, in records of the file.

    imported:      records that gave rows
    merged:        records equal to earlier ones, and messages of a tree that are turns of a row
    conversations: rows; a record may give several
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

    @property
    def unusable(self) -> int:
        """Records that were skipped for a fault of theirs: what a person is asked about (D3)."""
        return self.skipped - self.left_out
