"""Several data sets in one, and how imported rows are mended: what `[data]` may hold beside its settings."""

from __future__ import annotations

from typing import Literal

import msgspec

from qlora_studio.config.encodings import Encoding

LEAST_ALIKE = 0.7  # below this nearly every row of one kind of task is like another
USUALLY_ALIKE = 0.9
MOST_OFTEN = 100.0  # times that a row of a mixture may be seen in an epoch

FixKind = Literal[
    "equal_rows",
    "near_duplicates",
    "test_rows",
    "contradictions",
    "empty_answers",
    "refusals",
    "cut_sentences",
    "broken_encoding",
    "rows",
]


class Fix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One change of the imported rows; the same rows and the same fix always give the same rows.

    kind:      equal_rows | near_duplicates | test_rows | contradictions | empty_answers | refusals |
               cut_sentences | broken_encoding (the text is mended) | rows; all but broken_encoding leave
               rows out
    threshold: near_duplicates, test_rows: the share of words that two rows have in common, in their order
    path:      test_rows: the file whose rows must not be learned
    encoding:  test_rows: of that file; auto: as its content says, or else that of the rows' own file
    rows:      rows: numbers in the data set as it was imported, before any fix
    """

    kind: FixKind
    threshold: float = USUALLY_ALIKE
    path: str = ""
    encoding: Encoding = "auto"
    rows: tuple[int, ...] = ()


class MixPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set of a mixture. `weight`: how often a row of it is seen in an epoch."""

    path: str
    weight: float = 1.0
    format: str = "auto"
    encoding: Encoding = "auto"
    alternatives: Literal["best", "all"] = "best"
    map: dict[str, str] = {}
    recipe: tuple[Fix, ...] = ()
