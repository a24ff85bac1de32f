"""A record's values by the fields that its columns give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qlora_studio.data.record import RecordError, named, text_of


@dataclass(slots=True)
class Fields:
    """map: field -> column; notes: kinds of findings that come up while the values are read.

    all_answers: where a record holds several answers or wordings, each of them becomes a row
    """

    record: Mapping[str, Any]
    map: Mapping[str, str]
    all_answers: bool = False
    notes: set[str] = field(default_factory=set)

    def needed(self, name: str) -> Any:
        """Raises: RecordError where the record hasn't the column."""
        column = self.map[name]
        if column not in self.record:
            raise RecordError(f"no column {named(column)}")
        return self.record[column]

    def maybe(self, name: str) -> Any:
        """None where no column gives the field, or the record hasn't it."""
        return self.record.get(self.map[name]) if name in self.map else None

    def text(self, name: str) -> str:
        """Of an optional field; empty where it says nothing. Raises: RecordError, SpellingNeededError."""
        value = self.maybe(name)
        return "" if value is None or value == [] or value == {} else self.as_text(value, name)

    def needed_text(self, name: str) -> str:
        """Raises: RecordError, SpellingNeededError."""
        return self.as_text(self.needed(name), name)

    def as_text(self, value: Any, name: str) -> str:
        """A value of this field. Raises: RecordError, SpellingNeededError."""
        if type(value) is str:
            return value
        return text_of(value, named(self.map[name]), self.notes)
