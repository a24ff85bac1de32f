"""The first records of a file, looked at to find out what their columns mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qlora_studio.data.column_names import Names
from qlora_studio.data.limits import MAX_COLUMNS
from qlora_studio.data.record import named

LONGEST_NAME = 100  # characters; what is longer is no name of a column


@dataclass(frozen=True)
class Candidate:
    """One way to read the rows, and what speaks for it. `sure`: nothing of it is a mere guess."""

    format: str
    map: Mapping[str, str]
    reason: str
    sure: bool = True


class SampledRows:
    """Records and the columns that any of them has."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records
        self.rows: list[Mapping[str, Any]] = [record for record in records if isinstance(record, dict)]
        counts: Counter[str] = Counter()
        for row in self.rows:
            counts.update(row.keys())
        self.columns = tuple(name for name in counts if len(name) <= LONGEST_NAME)[:MAX_COLUMNS]

    @cached_property
    def by_name(self) -> dict[str, str]:
        """Plain name -> column: "Correct Answer" is found as correct_answer."""
        return {plain_name(column): column for column in reversed(self.columns)}

    def find(self, wanted: Names, taken: Iterable[str] = ()) -> dict[str, str]:
        """field -> column, where one of a field's names is there; no column twice."""
        found: dict[str, str] = {}
        used = set(taken)
        for field, names in wanted.items():
            for name in names.split():
                column = self.by_name.get(name)
                if column is not None and column not in used:
                    found[field] = column
                    used.add(column)
                    break
        return found

    def values(self, column: str) -> list[Any]:
        """Those that aren't null."""
        return [value for row in self.rows if (value := row.get(column)) is not None]

    def mostly(self, column: str, fits: Callable[[Any], bool]) -> bool:
        """Whether more than half of the values that are there fit."""
        values = self.values(column)
        return sum(fits(value) for value in values) * 2 > len(values)


def plain_name(column: str) -> str:
    """Lower case, with underlines for blanks and dashes."""
    return re.sub(r"[\s\-]+", "_", column.strip().lower())


def listed_names(names: Sequence[str]) -> str:
    """At most twelve of them, in quotes."""
    shown = ", ".join(named(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "none"
