"""Which of the settings of `[data]` can stand together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qlora_studio.config.data_parts import LEAST_ALIKE, MOST_OFTEN, Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.errors import StudioError

_DEFAULT = DataConfig()
_OF_ONE_FILE = ("format", "encoding", "alternatives", "map")


def check_data(data: DataConfig, where: str) -> None:
    """Raises: StudioError where settings of the data can't stand together."""
    for problem in _problems(data):
        raise StudioError(f"{where}: {problem}")


def check_recipe(recipe: Sequence[Fix], where: str) -> None:
    """Raises: StudioError where a fix lacks what it needs, or lies outside its limits."""
    for problem in _problems_of_fixes(recipe, "recipe"):
        raise StudioError(f"{where}: {problem}")


def _problems(data: DataConfig) -> Iterator[str]:
    mix, recipe = data.mix, data.recipe
    if mix and data.path:
        yield f"data.path = {data.path!r} and data.mix can't stand together: name that file in data.mix too."
    for name in _OF_ONE_FILE:
        if mix and getattr(data, name) != getattr(_DEFAULT, name):
            yield f"data.{name} says how one file is read: with data.mix it belongs to each of its parts."
    if not mix and not data.path:
        yield "data.path is empty; it must name a file with conversations or text."
    if len({part.path for part in mix}) < len(mix):
        yield "data.mix names the same path twice: raise its weight instead."
    for part in mix:
        if not part.path:
            yield "data.mix has a part without a path."
        if not 0 < part.weight <= MOST_OFTEN:
            yield f"data.mix: the weight of {part.path} is {part.weight:g}; it must be above 0, at most 100."
        yield from _problems_of_fixes(part.recipe, "data.mix.recipe")
    if data.validation_encoding != "auto" and not isinstance(data.validation, str):
        yield (
            "data.validation_encoding is that of a held-out file, and data.validation names none: it says "
            "how many of the rows are held out."
        )
    yield from _problems_of_fixes(recipe, "data.recipe")


def _problems_of_fixes(recipe: Sequence[Fix], key: str) -> Iterator[str]:
    for fix in recipe:
        if not LEAST_ALIKE <= fix.threshold <= 1:
            yield f"{key}: threshold is {fix.threshold:g}; it must be between {LEAST_ALIKE:g} and 1."
        if (fix.kind == "test_rows") != bool(fix.path):
            yield f"{key}: path belongs to the kind test_rows, which needs it."
        if fix.encoding != "auto" and not fix.path:
            yield f"{key}: encoding belongs to the kind test_rows: it is that of its file."
        if (fix.kind == "rows") != bool(fix.rows):
            yield f"{key}: rows belongs to the kind rows, which needs some."
        if any(row < 0 for row in fix.rows):
            yield f"{key}: rows are counted from 0."
