"""Which column of the file gives which part of a chat; each choice reads the file anew."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout

from qlora_studio.data.conversation import Row
from qlora_studio.plain_text import visible_line
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ChoiceBox,
    ElidedLabel,
    IconButton,
    PlainLabel,
    Separator,
    empty_layout,
)
from qlora_studio.ui.widgets.text_size import at_text_size

PAIR, CHAT, TEXT, TWO, RATED = "pair", "chat", "text", "two", "rated"
SHAPES = (
    (PAIR, "Prompt and answer"),
    (CHAT, "Chat"),
    (TEXT, "Text"),
    (TWO, "Two answers, one of them better"),
    (RATED, "Rated answer"),
)
FIELDS = {
    PAIR: (("prompt", True), ("answer", True), ("input", False), ("system", False), ("history", False)),
    CHAT: (("messages", True), ("system", False), ("tools", False)),
    TEXT: (("text", True),),
    TWO: (("chosen", True), ("rejected", True), ("prompt", False), ("system", False), ("history", False)),
    RATED: (("label", True), ("prompt", True), ("answer", True), ("input", False), ("system", False)),
}
_COMPARED = (("first", True), ("second", True), ("better", False))  # which is better stands in a column
_RATED_CHAT = (("label", True), ("messages", True))
WORDS = {
    "prompt": "Prompt",
    "answer": "Answer (learned)",
    "input": "Input (after the prompt)",
    "system": "System text",
    "history": "Earlier turns",
    "messages": "List of turns",
    "tools": "Tools",
    "text": "Text (learned)",
    "chosen": "Better answer (learned)",
    "rejected": "Worse answer",
    "label": "Rating, good or bad",
    "first": "First answer",
    "second": "Second answer",
    "better": "Which is better",
    "first_score": "Score of the first",
    "second_score": "Score of the second",
    "context": "Context (before the question)",
    "choices": "Choices",
    "tree": "Tree of turns",
    "id": "Name of a turn",
    "parent": "Turn it replies to",
    "role": "Who speaks",
    "rank": "Rank among replies",
}
_NONE = ""
_WIDEST = 420  # px of a list of columns
_SHOWN = 140  # characters of a turn


class ColumnsCard(Card):
    """Left our fields, right the columns of the file, three rows as they come out below.

    chosen: field -> column, whole enough to read the file with
    """

    chosen = Signal(dict)
    closed = Signal()

    def __init__(self) -> None:
        super().__init__("Columns", name="data_columns")
        self._columns: tuple[str, ...] = ()
        self._map: dict[str, str] = {}
        self._by_hand = False
        self._shown: Sequence[Row] = ()
        self._shape = ChoiceBox(SHAPES, name="data_shape", label="What a row is")
        self._file = ElidedLabel("", "muted", name="data_columns_file")
        self._grid = QGridLayout()
        self._boxes: dict[str, ChoiceBox] = {}
        self._missing = PlainLabel("", "note", wrap=True, name="data_columns_missing")
        self._rows = QVBoxLayout()
        close = IconButton("x", "Close", small=True, name="data_close_columns")
        close.clicked.connect(self.closed)
        self.add_to_head(close)
        self._grid.setVerticalSpacing(theme().px(6))
        self._grid.setColumnStretch(1, 1)
        self._rows.setSpacing(theme().px(4))
        self.body.addWidget(self._file)
        self.body.addWidget(self._shape)
        self.body.addLayout(self._grid)
        self.body.addWidget(self._missing)
        self.body.addWidget(Separator())
        self.body.addLayout(self._rows)
        self.keep_snug()
        self._shape.chosen.connect(lambda _: self._build_fields())

    def show_file(self, name: str) -> None:
        """Whose columns they are, where there are several files; "": there is one."""
        self._file.setText(name)
        self._file.setVisible(bool(name))

    def show_columns(self, columns: tuple[str, ...], chosen: dict[str, str], *, by_hand: bool) -> None:
        """chosen: field -> column, as the rows on the screen were read; by_hand: by a person."""
        if (columns, chosen, by_hand) == (self._columns, self._map, self._by_hand):
            return
        self._columns, self._map, self._by_hand = columns, dict(chosen), by_hand
        self._shape.set_value(_shape(chosen))
        self._build_fields()

    def show_rows(self, rows: Sequence[Row]) -> None:
        """The first ones, as they were read with these columns."""
        if rows is self._shown:
            return
        self._shown = rows
        empty_layout(self._rows)
        for number, row in enumerate(rows):
            if number:
                self._rows.addWidget(Separator())
            turns = [(message.role, message.content) for message in row.messages[:4]]
            if row.rejected:
                turns.append(("rejected", row.rejected[-1].content))
            if row.label is not None:
                turns.append(("rated", "good" if row.label else "bad"))
            for role, text in turns or [("text", row.text or "")]:
                words = visible_line(f"{role}: {text}", _SHOWN)
                self._rows.addWidget(PlainLabel(words, "note", wrap=True))

    def show_records(self, records: Sequence[str]) -> None:
        """As they stand in the file, where no columns are chosen yet."""
        empty_layout(self._rows)
        for record in records:
            self._rows.addWidget(PlainLabel(record, "mono", wrap=True))

    def _build_fields(self) -> None:
        empty_layout(self._grid)
        self._boxes.clear()
        for at, (field, needed) in enumerate(self._fields()):
            guessed = field in self._map and not self._by_hand
            none = [(_NONE, "choose" if needed else "none")]
            choices = none + [
                (column, f"{column} (guessed)" if guessed and column == self._map[field] else column)
                for column in self._columns
            ]
            box = ChoiceBox(choices, name=f"data_column_{field}", label=_words(field))
            box.set_value(self._map.get(field, _NONE))
            box.chosen.connect(lambda _: self._on_chosen())
            at_text_size(box, box.setMaximumWidth, _WIDEST)
            label = PlainLabel(_words(field), "label")
            label.setBuddy(box)
            self._grid.addWidget(label, at, 0)
            self._grid.addWidget(box, at, 1)
            self._boxes[field] = box
        self._tell_missing()

    def _fields(self) -> list[tuple[str, bool]]:
        """Of the shape, and whatever else the rows on the screen were read with: name, needed or not."""
        shape, mapped = self._shape.value(), self._map
        fields = list(FIELDS[shape])
        if shape != _shape(mapped):
            return fields
        if shape == TWO and "first" in mapped:
            fields = list(_COMPARED)
        if shape == RATED and "messages" in mapped:
            fields = list(_RATED_CHAT)
        known = {field for field, _ in fields}
        return fields + [(field, False) for field in mapped if field not in known]

    def _tell_missing(self) -> list[str]:
        missing = [
            _words(field) for field, needed in self._fields() if needed and not self._boxes[field].value()
        ]
        self._missing.setText(f"Still to choose: {', '.join(missing)}" if missing else "")
        self._missing.setVisible(bool(missing))
        return missing

    def _on_chosen(self) -> None:
        if not self._tell_missing():
            self.chosen.emit({field: box.value() for field, box in self._boxes.items() if box.value()})


def _shape(mapped: dict[str, str]) -> str:
    if "label" in mapped:
        return RATED
    if mapped.keys() & {"chosen", "rejected", "first", "second"}:
        return TWO
    return CHAT if "messages" in mapped else TEXT if "text" in mapped else PAIR


def _words(field: str) -> str:
    return WORDS.get(field, field.replace("_", " ").capitalize())
