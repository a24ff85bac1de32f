"""Several data sets in one, and how imported rows are mended: what `[data]` may hold beside its settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from qlora_studio.errors import StudioError

LEAST_ALIKE = 0.7  # below this nearly every row of one kind of task is like another
USUALLY_ALIKE = 0.9
MOST_OFTEN = 100.0  # times that a row of a mixture may be seen in an epoch

FixKind = Literal[
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

    kind:      near_duplicates | test_rows | contradictions | empty_answers | refusals | cut_sentences |
               broken_encoding (the text is mended) | rows; all but broken_encoding leave rows out
    threshold: near_duplicates, test_rows: the share of words that two rows have in common, in their order
    path:      test_rows: the file whose rows must not be learned
    rows:      rows: numbers in the data set as it was imported, before any fix
    """

    kind: FixKind
    threshold: float = USUALLY_ALIKE
    path: str = ""
    rows: tuple[int, ...] = ()


class MixPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set of a mixture. `weight`: how often a row of it is seen in an epoch."""

    path: str
    weight: float = 1.0
    format: str = "auto"
    map: dict[str, str] = {}
    recipe: tuple[Fix, ...] = ()


def check_parts(path: str, mix: Sequence[MixPart], recipe: Sequence[Fix], where: str) -> None:
    """Raises: StudioError where data.path, data.mix and data.recipe can't stand together."""
    for problem in _problems(path, mix, recipe):
        raise StudioError(f"{where}: {problem}")


def _problems(path: str, mix: Sequence[MixPart], recipe: Sequence[Fix]) -> Iterator[str]:
    if mix and path:
        yield f"data.path = {path!r} and data.mix can't stand together: name that file in data.mix too."
    if not mix and not path:
        yield "data.path is empty; it must name a file with conversations or text."
    if len({part.path for part in mix}) < len(mix):
        yield "data.mix names the same path twice: raise its weight instead."
    for part in mix:
        if not part.path:
            yield "data.mix has a part without a path."
        if not 0 < part.weight <= MOST_OFTEN:
            yield f"data.mix: the weight of {part.path} is {part.weight:g}; it must be above 0, at most 100."
        yield from _problems_of_fixes(part.recipe, "data.mix.recipe")
    yield from _problems_of_fixes(recipe, "data.recipe")


def _problems_of_fixes(recipe: Sequence[Fix], key: str) -> Iterator[str]:
    for fix in recipe:
        if not LEAST_ALIKE <= fix.threshold <= 1:
            yield f"{key}: threshold is {fix.threshold:g}; it must be between {LEAST_ALIKE:g} and 1."
        if (fix.kind == "test_rows") != bool(fix.path):
            yield f"{key}: path belongs to the kind test_rows, which needs it."
        if (fix.kind == "rows") != bool(fix.rows):
            yield f"{key}: rows belongs to the kind rows, which needs some."
        if any(row < 0 for row in fix.rows):
            yield f"{key}: rows are counted from 0."
