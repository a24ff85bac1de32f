"""What the Data page shows: a file as it was read, its rows, their lengths, and what is odd about them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.data.conversation import Row
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.protocol import reading
from qlora_studio.state.data_counts import TokenCounts
from qlora_studio.state.data_import import DataImport, file_name
from qlora_studio.state.data_row import ChosenRow, TokenSettings
from qlora_studio.state.data_rows import RowTable
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Reader
from qlora_studio.state.sample_model import SampleModel

MOST_SKIPPED = 0.01  # more than this share is asked about (D3)
RECENT = 20  # imported files that are remembered

ALL, FLAGGED, LONG, SEARCH = "all", "flagged", "long", "search"
NOTHING = "nothing"  # the finding of rows without a token to learn
TONES = ("bad", "warn", "info", "ok")  # the gravest first


class DataState(QObject):
    """changed: anything of the below but the chosen row, which tells by itself.

    file:   the file on its way to rows
    data:   the file whose rows are shown and how it was read, None before the first import
    report: what came of it
    counts: how long its rows are
    filter: all, flagged, long, search, or the kind of a finding
    """

    changed = Signal()

    def __init__(
        self,
        reader: Reader,
        quick_reader: Reader,
        draft: RunDraft,
        sample_model: SampleModel,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        """quick_reader: for what a person waits for while `reader` counts for minutes."""
        super().__init__(parent)
        self._quick_reader = quick_reader
        self._draft = draft
        self._sample_model = sample_model
        self._preferences = preferences
        self.file = DataImport(reader, self)
        self.counts = TokenCounts(reader, self)
        self.table = RowTable(quick_reader, self)
        self.row = ChosenRow(quick_reader, self)
        self.data: DataConfig | None = None
        self.report: ImportReport | None = None
        self.first_rows: tuple[Row, ...] = ()  # for whoever looks whether the columns are right
        self.filter = ALL
        self.filter_words = ""
        self._dataset = ""
        self._drafted = _way(DataConfig())  # what the draft named when it was last looked at
        self._open = False
        self._settle = QTimer(self, interval=50, singleShot=True)
        self._bind()

    def _bind(self) -> None:
        self._settle.timeout.connect(self._on_settled)
        self._draft.changed.connect(self._settle.start)
        self._sample_model.made.connect(self._settle.start)
        self._sample_model.failed.connect(self.counts.tell)
        self.file.changed.connect(self._on_file)
        self.file.imported.connect(self._on_imported)
        self.counts.changed.connect(self._on_counts)

    # What the page asks -----------------------------------------------------------------------------

    def look(self) -> None:
        """The page is in front: from now on tokens are counted. Another file that Train names is read."""
        self._open = True
        drafted = _way(self._draft.config.data)
        if drafted != self._drafted:
            self._drafted = drafted
            if self.data is None or _way(self.data) != drafted:
                self.read(*drafted)
        self._settle.start()

    def look_away(self) -> None:
        """Another page is in front."""
        self._open = False

    def read(
        self,
        path: str,
        format: str = "auto",
        columns: dict[str, str] | None = None,
        encoding: Encoding = "auto",
    ) -> None:
        """Reads a file. What is shown stays until the new rows are there."""
        self.counts.give_up()  # or the file would wait for it
        data = self._draft.config.data
        columns = dict(columns or {})
        self.file.read(
            msgspec.structs.replace(data, path=path, format=format, map=columns, encoding=encoding, mix=())
        )

    def read_as(self, format: str) -> None:
        """The last file in another format; columns that were chosen for it no longer hold."""
        if self.file.asked is not None:
            self.read(self.file.asked.path, format, encoding=self.file.asked.encoding)

    def read_encoded(self, encoding: Encoding) -> None:
        """The last file, with its letters stored in this way."""
        if self.file.asked is not None:
            self.read(*_way(self.file.asked)[:3], encoding)

    def read_columns(self, columns: dict[str, str]) -> None:
        """The last file, with these columns for these fields."""
        if self.file.asked is not None:
            self.read(self.file.asked.path, "auto", columns, self.file.asked.encoding)

    def read_again(self) -> None:
        """The last file, as it lies on the disk now."""
        if self.file.asked is not None:
            self.read(*_way(self.file.asked))

    def use(self) -> None:
        """For the next run."""
        if self.data is not None:
            self._drafted = _way(self.data)
            names = ("data.path", "data.format", "data.map", "data.encoding", "data.mix")
            self._draft.set_many(dict(zip(names, (*self._drafted, ()), strict=True)))

    def unpack_sample(self) -> None:
        """Makes the bundled model's folder, whose tokens are to be shown."""
        self.counts.tell(None)
        self._sample_model.make()
        self.changed.emit()

    def accept_skipped(self) -> None:
        """The rest is used all the same; Train doesn't ask again."""
        if self.report is not None:
            self._draft.skipped_accepted.add(self.report.sha256)
            self.changed.emit()

    # Which rows are listed --------------------------------------------------------------------------

    def show(self, name: str) -> None:
        """name: all, flagged, long, or the kind of a finding."""
        rows = self._rows_of(name)
        self.filter, self.filter_words = name, ""
        if rows is None:
            self.filter = ALL
            self.table.show_all()
        else:
            self.table.show_listed(rows)
            finding = self._finding(name)
            if finding is not None:
                listed = f"the first {len(rows):,} of " if len(rows) < finding.count else ""
                self.filter_words = f"{listed}{finding.words}"
        self.changed.emit()

    def search(self, text: str) -> None:
        """One thing narrows the list at a time: a search looks through all rows."""
        text = text.strip()
        if text:
            self.filter, self.filter_words = SEARCH, text
        elif self.filter == SEARCH:
            self.filter, self.filter_words = ALL, ""
        else:
            return
        self.table.search(text)
        self.changed.emit()

    def choose(self, position: int) -> None:
        """The row that stands there in the list."""
        row = self.table.row_at(position)
        if row is not None:
            self.row.choose(self._dataset, row)

    def _rows_of(self, name: str) -> NDArray[np.int64] | None:
        """None: all."""
        match name:
            case "flagged":
                return self.table.flagged_rows()
            case "long":
                return self.table.long_rows()
            case "nothing":
                return self.table.empty_rows()
        finding = self._finding(name)
        return None if finding is None else np.array(finding.rows, dtype=np.int64)

    def _finding(self, kind: str) -> Finding | None:
        return next((found for found in self.findings() if found.kind == kind), None)

    # What is known ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the file."""
        return "" if self.data is None else file_name(self.data.path)

    @property
    def model(self) -> str:
        """The folder of the chosen model; empty where there is none yet."""
        path: str = self._draft.value("model.path")
        if path == SAMPLE:
            return str(self._sample_model.folder) if self._sample_model.ready else ""
        return path

    @property
    def model_name(self) -> str:
        """Of the chosen model."""
        path: str = self._draft.value("model.path")
        return self._sample_model.folder.name if path == SAMPLE else Path(path).name

    @property
    def sample_waits(self) -> bool:
        """The chosen model is the bundled one, and it isn't unpacked yet."""
        return self._draft.value("model.path") == SAMPLE and not self._sample_model.ready

    @property
    def unpacking(self) -> bool:
        """It is being unpacked now."""
        return self._sample_model.making

    @property
    def texts_are_split(self) -> bool:
        """Rows of plain text lose nothing by the length limit: longer ones become several."""
        return self.report is not None and self.report.format == "text"

    @property
    def asks_about_skipped(self) -> bool:
        """So much was skipped that somebody should look before it is used (D3)."""
        report = self.report
        if report is None or report.sha256 in self._draft.skipped_accepted:
            return False
        return report.unusable > MOST_SKIPPED * report.rows_in

    def findings(self) -> list[Finding]:
        """Of the import, and of the token counts; the gravest first."""
        if self.report is None:
            return []
        found = [*self.report.findings, *self._findings_of_tokens()]
        return sorted(found, key=lambda finding: TONES.index(finding.tone))

    def split(self) -> tuple[int, int]:
        """About how many rows are for training and for evaluation; a file of its own counts apart."""
        if self.report is None:
            return 0, 0
        rows = left = self.report.conversations
        share = self._draft.value("data.validation")
        apart = max(1, round(share * rows)) if not isinstance(share, str) and share > 0 and rows > 1 else 0
        lengths = self.counts.lengths
        if lengths is not None and rows:
            kept = lengths[:, 1] > 0
            if self._draft.value("data.too_long") == "drop" and not self.texts_are_split:
                kept &= lengths[:, 0] <= self._draft.value("data.seq_len")
            left = int(np.count_nonzero(kept))
            apart = round(apart * left / rows)
        return left - apart, apart

    def skipped_text(self) -> str:
        """Every skipped line that is known, with its reason: to copy or to keep."""
        if self.report is None:
            return ""
        listed = sorted((line, problem.reason) for problem in self.report.problems for line in problem.lines)
        rest = self.report.skipped - len(listed)
        lines = [f"line {line}: {reason}" for line, reason in listed]
        return "\n".join(lines + ([f"and {rest:,} more"] if rest else [])) + "\n"

    def save_skipped(self, file: Path) -> str:
        """A few thousand lines at most. Returns: why they could not be written; empty where they are."""
        try:
            file.write_text(self.skipped_text(), "utf-8")
        except OSError as error:
            return f"{file} could not be written: {error.strerror}."
        return ""

    def _findings_of_tokens(self) -> list[Finding]:
        nothing = self.counts.counted.lengths.nothing_to_learn if self.counts.counted else 0
        if not nothing:
            return []
        rows = "row has" if nothing == 1 else "rows have"
        return [
            Finding(
                kind=NOTHING,
                tone="bad",
                count=nothing,
                words=f"{nothing:,} {rows} no token to learn",
                why="Their answers are empty, or the template can't render them. They are not trained on.",
            )
        ]

    # What is heard ----------------------------------------------------------------------------------

    def _on_imported(self, answer: reading.DataImported) -> None:
        assert self.file.asked is not None
        self.data, self.report, self._dataset = self.file.asked, answer.report, answer.dataset
        self.first_rows = ()
        self.filter, self.filter_words = ALL, ""
        if self.data.path != SAMPLE:
            others = [path for path in self._preferences.values.data if path != self.data.path]
            self._preferences.set("data", [self.data.path, *others][:RECENT])
        self.table.show_dataset(self._dataset, answer.report.conversations, answer.report.findings)
        self._see()
        self.row.choose(self._dataset, 0)
        first = self._quick_reader.ask(reading.ShowRows, dataset=self._dataset, start=0, count=3)
        first.answered.connect(self._on_first_rows)
        self._on_settled()

    def _on_file(self) -> None:
        if not self.file.busy:
            self._settle.start()  # refused or stopped: the rows that are still there are counted again
        self.changed.emit()

    def _on_first_rows(self, answer: reading.RowsShown) -> None:
        self.first_rows = answer.rows
        self.changed.emit()

    def _on_settled(self) -> None:
        moved = self._see()
        config = self._draft.config
        if self._open and self.report is not None and not self.file.busy:
            self.counts.count(self._dataset, self.model, config.data, config.training.method)
        if moved and self.filter == LONG:
            self.table.show_listed(self.table.long_rows())
        self.changed.emit()

    def _see(self) -> bool:
        """Rows as the settings in force have them. Returns: whether the limit is another."""
        config, model = self._draft.config, self.model
        self.table.expect_lengths(bool(model))
        self.row.see_with(TokenSettings(model, config.data, config.training.method) if model else None)
        too_long = "" if self.texts_are_split else config.data.too_long
        return self.table.set_limit(config.data.seq_len, too_long)

    def _on_counts(self) -> None:
        self.table.set_lengths(self.counts.lengths)
        self.changed.emit()


def _way(data: DataConfig) -> tuple[str, str, dict[str, str], Encoding]:
    """Which file, and how it is read."""
    return data.path, data.format, dict(data.map), data.encoding
