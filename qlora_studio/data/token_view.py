"""Rows in tokens as a person sees them: text, id and fate of each, and how long the rows are."""

from __future__ import annotations

import msgspec


class Token(msgspec.Struct, frozen=True):
    """One token as the trainer sees it. `fate`: learned | context | cut; of a worse answer avoided."""

    text: str
    id: int
    fate: str
    role: str = ""
    special: bool = False


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long the rows are in tokens. `rows[i]`, `learned[i]`: of row i, saved at `file` as int32 pairs."""

    file: str  # .npy, int32 [rows, 2]: tokens, learned tokens; before any cut
    rows: int
    tokens: int
    learned_tokens: int
    longest: int
    median: int
    nothing_to_learn: int
    template_sha256: str
    refused: str = ""  # why the template can't write, or the method not learn, the first of those without any
