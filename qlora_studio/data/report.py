"""What an import counted, skipped and found."""

from __future__ import annotations

import msgspec


class SkipReason(msgspec.Struct, frozen=True):
    """Why `count` records were skipped; `line` is the first of them."""

    line: int
    reason: str
    count: int
    lines: tuple[int, ...] = ()  # the first thousand


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the doctor sees. `tone`: bad | warn | info | ok."""

    kind: str
    tone: str
    count: int
    words: str
    why: str
    rows: tuple[int, ...] = ()  # the first thousand


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """rows_in = imported + skipped + merged, always."""

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
