"""Several data sets in one: what each is, how often its rows are seen, and how one is added or taken out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from qlora_studio.config.data_parts import MOST_OFTEN, Fix, MixPart
from qlora_studio.config.run_config import DataConfig, read_alone
from qlora_studio.data.report import ImportReport
from qlora_studio.plain_text import visible_line
from qlora_studio.state.data_fixes import for_other_rows
from qlora_studio.state.data_name import file_name, format_words

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

Alternatives = Literal["best", "all"]

LEAST_OFTEN = 0.01
COLUMNS = ("Data set", "Format", "Rows", "Weight", "Seen in an epoch")
WEIGHT = COLUMNS.index("Weight")
_NUMBERS = range(COLUMNS.index("Rows"), len(COLUMNS))


# Mixtures as settings


def mixture(paths: Iterable[str], alternatives: Alternatives) -> DataConfig:
    """Of these files, each as its content has it."""
    return DataConfig(path="", mix=tuple(MixPart(path=path, alternatives=alternatives) for path in paths))


def with_files(data: DataConfig, paths: Iterable[str], alternatives: Alternatives) -> DataConfig:
    """Together with these. What one file was mended by stays with that file."""
    added = tuple(MixPart(path=path, alternatives=alternatives) for path in paths)
    if data.mix:
        return msgspec.structs.replace(data, mix=(*data.mix, *added))
    return DataConfig(path="", mix=(_part_of(data), *added))


def without_part(data: DataConfig, place: int) -> DataConfig:
    """The other data sets; where one is left, it is no mixture any more."""
    left = data.mix[:place] + data.mix[place + 1 :]
    recipe = for_other_rows(data.recipe)
    if len(left) > 1:
        return msgspec.structs.replace(data, mix=left, recipe=recipe)
    return msgspec.structs.replace(read_alone(left[0]), recipe=(*left[0].recipe, *recipe))


def with_weight(data: DataConfig, place: int, weight: float) -> DataConfig:
    """The same rows, those of one data set seen more or less often."""
    return _with_part(data, place, msgspec.structs.replace(data.mix[place], weight=weight))


def with_part_read(data: DataConfig, place: int, **changes: Any) -> DataConfig:
    """One data set read in another way: its rows are others, and the rows after them have other numbers."""
    part = data.mix[place]
    part = msgspec.structs.replace(part, recipe=for_other_rows(part.recipe), **changes)
    return msgspec.structs.replace(_with_part(data, place, part), recipe=for_other_rows(data.recipe))


def with_part_recipe(data: DataConfig, place: int, recipe: Sequence[Fix]) -> DataConfig:
    """One data set mended in another way."""
    part = msgspec.structs.replace(data.mix[place], recipe=tuple(recipe))
    return msgspec.structs.replace(_with_part(data, place, part), recipe=for_other_rows(data.recipe))


def _part_of(data: DataConfig) -> MixPart:
    return MixPart(
        path=data.path,
        format=data.format,
        encoding=data.encoding,
        alternatives=data.alternatives,
        map=data.map,
        recipe=data.recipe,
    )


def _with_part(data: DataConfig, place: int, part: MixPart) -> DataConfig:
    return msgspec.structs.replace(data, mix=(*data.mix[:place], part, *data.mix[place + 1 :]))


# Mixtures on the screen


@dataclass(frozen=True)
class MixedSet:
    """One data set of the mixture whose rows are shown.

    report: of its import by itself
    first_row, rows: of the mixture's, after all fixes
    """

    part: MixPart
    report: ImportReport
    first_row: int
    rows: int

    @property
    def name(self) -> str:
        """Of its file."""
        return file_name(self.part.path)

    @property
    def seen(self) -> int:
        """How many rows of it an epoch shows, repeated ones each time; before any is held out."""
        return round(self.part.weight * self.rows)


class MixTable(QAbstractTableModel):
    """A data set a row. The weight is edited in place.

    weighed: (place, weight): a person wants the rows of a data set seen so often
    """

    weighed = Signal(int, float)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.sets: tuple[MixedSet, ...] = ()
        self._editable = True

    def show(self, sets: Sequence[MixedSet]) -> None:
        """Of another mixture; none: it is no mixture."""
        same = [one.part.path for one in sets] == [one.part.path for one in self.sets]
        if same and sets:  # whoever looks at a row of the list goes on with it
            self.sets = tuple(sets)
            self.dataChanged.emit(self.index(0, 0), self.index(len(sets) - 1, len(COLUMNS) - 1))
            return
        self.beginResetModel()
        self.sets = tuple(sets)
        self.endResetModel()

    def allow_edits(self, allowed: bool) -> None:
        """Not while rows are being read."""
        self._editable = allowed

    def place_of(self, row: int) -> int | None:
        """Which data set a row of the mixture comes from."""
        for place, one in enumerate(self.sets):
            if one.first_row <= row < one.first_row + one.rows:
                return place
        return None

    # Qt's questions

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.sets)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(COLUMNS):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        return _alignment(section) if role == Qt.ItemDataRole.TextAlignmentRole else None

    def flags(self, index: Index) -> Qt.ItemFlag:
        flags = super().flags(index)
        editable = index.isValid() and index.column() == WEIGHT and self._editable
        return flags | Qt.ItemFlag.ItemIsEditable if editable else flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        one, column = self.sets[index.row()], index.column()
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return _words(one, column)
            case Qt.ItemDataRole.EditRole if column == WEIGHT:
                return one.part.weight
            case Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(column)
            case Qt.ItemDataRole.AccessibleTextRole:
                return f"{COLUMNS[column]}: {_words(one, column)}"
        return None

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if not index.isValid() or index.column() != WEIGHT or not LEAST_OFTEN <= value <= MOST_OFTEN:
            return False
        self.weighed.emit(index.row(), float(value))
        return True


def _words(one: MixedSet, column: int) -> str:
    left_out = one.report.left_out_by_fixes
    return (
        visible_line(one.name, 300),
        format_words(one.report.format),
        f"{one.rows:,}" + (f", {left_out:,} left out" if left_out else ""),
        f"{one.part.weight:g}",
        f"{one.seen:,}",
    )[column]


def _alignment(column: int) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if column in _NUMBERS else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter
