"""Columns that count and that only late records of a JSON file have: the first ones don't show them.

A file whose thousandth record is the first with a system text is read once more from its beginning, as if
that record had been among those that were looked at: else the text would be lost without a word (D3).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from qlora_studio.data.column_names import OPTIONAL
from qlora_studio.data.formats import Layout
from qlora_studio.data.sampled_rows import plain_name

_MOST_REMEMBERED = 1_000  # names that were looked at and don't count


class LateColumnError(Exception):
    """`record` has such a column. Caught where the file can be begun anew."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__()
        self.record = record


class LateColumns:
    """Looks for them while records are read."""

    def __init__(self, layout: Layout, columns: Collection[str] = ()) -> None:
        """columns: those that the first records have; without any nothing is looked for."""
        fields = OPTIONAL.get(layout.format, {}) if columns else {}
        missing = [names for field, names in fields.items() if field not in layout.map]
        seen = {plain_name(column) for column in columns}
        self.names = {name for names in missing for name in names.split()} - seen
        self._known = set(columns)

    def look(self, value: Any) -> None:
        """Raises: LateColumnError."""
        if not self.names or not isinstance(value, dict) or value.keys() <= self._known:
            return
        for column in value.keys() - self._known:
            if self.counts(column):
                if value[column] not in (None, "", [], {}):
                    raise LateColumnError(value)
            elif len(self._known) < _MOST_REMEMBERED:
                self._known.add(column)

    def counts(self, column: str) -> bool:
        """Whether a column of this name would be read."""
        return plain_name(column) in self.names
