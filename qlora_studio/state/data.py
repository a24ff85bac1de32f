"""What the Data page shows: a file as it was read, its rows, their lengths, and what is odd about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.data.conversation import Row
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.data_row import ChosenRow, TokenSettings
from qlora_studio.state.data_rows import RowTable
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

MOST_SKIPPED = 0.01  # more than this share is asked about (D3)
RECENT = 20  # imported files that are remembered

ALL, FLAGGED, LONG, SEARCH = "all", "flagged", "long", "search"
NOTHING = "nothing"  # the finding of rows without a token to learn


@dataclass(frozen=True)
class Counting:
    """What tokens are counted for."""

    dataset: str
    model: str
    train_on: str
    method: str


class DataState(QObject):
    """changed: anything of the below but the chosen row, which tells by itself.

    data:     the file and how it was read, None before the first import; `report` is what came of it
    problem:  why the last file could not be read; `refused` is that file
    reading:  the file that is being read now, None where none is
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
        self._reader = reader
        self._quick_reader = quick_reader
        self._draft = draft
        self._sample_model = sample_model
        self._preferences = preferences
        self.table = RowTable(quick_reader, self)
        self.row = ChosenRow(quick_reader, self)
        self.data: DataConfig | None = None
        self.report: ImportReport | None = None
        self.problem: Problem | None = None
        self.refused: DataConfig | None = None
        self.reading: DataConfig | None = None
        self.reading_words = ""
        self.reading_share = -1.0  # below 0: unknown
        self.first_rows: tuple[Row, ...] = ()  # for whoever looks whether the columns are right
        self.counted: reading.TokensCounted | None = None
        self.lengths: NDArray[np.int32] | None = None  # [rows, 2]: tokens, learned tokens
        self.counting_words = ""
        self.count_problem: Problem | None = None
        self.filter = ALL
        self.filter_words = ""
        self.accepted_skipped = False
        self._dataset = ""
        self._drafted = (SAMPLE, "auto", dict[str, str]())  # what the draft named when it was last looked at
        self._import_job: Job | None = None
        self._count_job: Job | None = None
        self._asked_count: Counting | None = None
        self._open = False
        self._settle = QTimer(self, interval=50, singleShot=True)
        self._settle.timeout.connect(self._on_settled)
        draft.changed.connect(self._settle.start)
        sample_model.made.connect(self._settle.start)
        sample_model.failed.connect(self._on_sample_failed)

    # What the page asks -----------------------------------------------------------------------------

    def look(self) -> None:
        """The page is in front: from now on tokens are counted. Another file that Train names is read."""
        self._open = True
        data = self._draft.config.data
        drafted = (data.path, data.format, dict(data.map))
        if drafted != self._drafted:
            self._drafted = drafted
            if self._shown_as() != drafted:
                self.read(data.path, data.format, data.map)
        self._settle.start()

    def look_away(self) -> None:
        """Another page is in front."""
        self._open = False

    def read(self, path: str, format: str = "auto", columns: dict[str, str] | None = None) -> None:
        """Reads a file. What is shown stays until the new rows are there."""
        self.stop()
        self.problem = self.refused = None
        self.reading = msgspec.structs.replace(
            self._draft.config.data, path=path, format=format, map=dict(columns or {}), mix=()
        )
        self.reading_words, self.reading_share = f"Reading {file_name(path)}", -1.0
        self._import_job = job = self._reader.ask(reading.ImportData, data=self.reading)
        job.progress.connect(self._on_import_progress)
        job.answered.connect(self._on_imported)
        job.refused.connect(self._on_import_refused)
        self.changed.emit()

    def read_as(self, format: str) -> None:
        """The same file in another format; columns that were chosen for the last one no longer hold."""
        if self.data is not None and format != self.data.format:
            self.read(self.data.path, format)

    def read_columns(self, columns: dict[str, str]) -> None:
        """The same file, with these columns for these fields."""
        if self.data is not None and columns != self.data.map:
            self.read(self.data.path, "auto", columns)

    def read_again(self) -> None:
        """The same file, as it lies on the disk now."""
        if self.data is not None:
            self.read(self.data.path, self.data.format, self.data.map)

    def stop(self) -> None:
        """Ends the reading; what was shown before stays."""
        if self._import_job is not None:
            self._import_job.cancel()
            self._import_job = self.reading = None
            self.changed.emit()

    def use(self) -> None:
        """For the next run."""
        if self.data is not None:
            self._drafted = (self.data.path, self.data.format, dict(self.data.map))
            names = ("data.path", "data.format", "data.map", "data.mix")
            self._draft.set_many(dict(zip(names, (*self._drafted, ()), strict=True)))

    def unpack_sample(self) -> None:
        """Makes the bundled model's folder, whose tokens are to be shown."""
        self.count_problem = None
        self._sample_model.make()
        self.changed.emit()

    # Which rows are listed --------------------------------------------------------------------------

    def show(self, name: str) -> None:
        """name: all, flagged, long, or the kind of a finding."""
        rows = self.rows_of(name)
        self.filter, self.filter_words = name, ""
        if rows is None:
            self.filter = ALL
            self.table.show_all()
        else:
            self.table.show_listed(rows)
            finding = next((found for found in self.findings() if found.kind == name), None)
            if finding is not None:
                listed = f"the first {len(rows):,} of " if len(rows) < finding.count else ""
                self.filter_words = f"{listed}{finding.words}"
        self.changed.emit()

    def rows_of(self, name: str) -> NDArray[np.int64] | None:
        """None: all."""
        match name:
            case "all":
                return None
            case "flagged":
                return self.table.flagged_rows()
            case "long":
                return self.table.long_rows()
            case "nothing":
                return self.table.empty_rows()
        finding = next((found for found in self.findings() if found.kind == name), None)
        return None if finding is None else np.array(finding.rows, dtype=np.int64)

    def search(self, text: str) -> None:
        """One thing narrows the list at a time: a search looks through all rows."""
        text = text.strip()
        if not text and self.filter != SEARCH:
            return
        self.filter, self.filter_words = (SEARCH, text) if text else (ALL, "")
        self.table.search(text)
        self.changed.emit()

    def choose(self, position: int) -> None:
        """The row that stands there in the list."""
        row = self.table.row_at(position)
        if row is not None:
            self.row.choose(self._dataset, row)

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
    def asks_about_skipped(self) -> bool:
        """So much was skipped that somebody should look before it is used (D3)."""
        report = self.report
        return (
            report is not None
            and not self.accepted_skipped
            and report.skipped > MOST_SKIPPED * report.rows_in
        )

    def accept_skipped(self) -> None:
        """The rest is used all the same."""
        self.accepted_skipped = True
        self.changed.emit()

    def findings(self) -> list[Finding]:
        """Of the import, and of the token counts; the gravest first."""
        if self.report is None:
            return []
        found = [*self.report.findings, *self._findings_of_tokens()]
        return sorted(found, key=lambda finding: ("bad", "warn", "info", "ok").index(finding.tone))

    def long_rows(self) -> int:
        """Rows over the length limit."""
        return len(self.table.long_rows())

    def split(self) -> tuple[int, int]:
        """About how many rows are for training and for evaluation; a file of its own counts apart."""
        if self.report is None:
            return 0, 0
        rows = self.report.imported
        share = self._draft.value("data.validation")
        apart = max(1, round(share * rows)) if not isinstance(share, str) and share > 0 and rows > 1 else 0
        if self.lengths is not None and len(self.lengths):
            kept = self.lengths[:, 1] > 0
            if self.table.drops_long_rows:
                kept &= self.lengths[:, 0] <= self._draft.value("data.seq_len")
            left = int(np.count_nonzero(kept))
            apart = round(apart * left / rows)
            rows = left
        return rows - apart, apart

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
        nothing = self.counted.lengths.nothing_to_learn if self.counted else 0
        if not nothing:
            return []
        words = (
            f"{nothing:,} row has no token to learn"
            if nothing == 1
            else f"{nothing:,} rows have no token to learn"
        )
        why = "Their answers are empty, or the template leaves them out. They are not trained on."
        return [Finding(kind=NOTHING, tone="bad", count=nothing, words=words, why=why)]

    def _shown_as(self) -> tuple[str, str, dict[str, str]] | None:
        return None if self.data is None else (self.data.path, self.data.format, dict(self.data.map))

    # What is heard ----------------------------------------------------------------------------------

    def _on_import_progress(self, progress: reading.Progress) -> None:
        assert self.reading is not None
        self.reading_words = f"Reading {file_name(self.reading.path)}: {progress.words}"
        self.reading_share = progress.done / progress.total if progress.total else -1.0
        self.changed.emit()

    def _on_imported(self, answer: reading.DataImported) -> None:
        self._import_job = None
        self.data, self.reading = self.reading, None
        self.report, self._dataset = answer.report, answer.dataset
        self.counted = self.lengths = self.count_problem = None
        self._asked_count = None
        self.filter, self.filter_words, self.accepted_skipped = ALL, "", False
        assert self.data is not None
        if self.data.path != SAMPLE:
            others = [path for path in self._preferences.values.data if path != self.data.path]
            self._preferences.set("data", [self.data.path, *others][:RECENT])
        self._show_limit()
        self.table.expect_lengths(bool(self.model))
        self.table.show_dataset(self._dataset, answer.report.conversations, answer.report.findings)
        self.row.choose(self._dataset, 0)
        first = self._quick_reader.ask(reading.ShowRows, dataset=self._dataset, start=0, count=3)
        first.answered.connect(self._on_first_rows)
        self._on_settled()

    def _on_first_rows(self, answer: reading.RowsShown) -> None:
        self.first_rows = answer.rows
        self.changed.emit()

    def _on_import_refused(self, problem: Problem) -> None:
        self._import_job = None
        self.problem, self.refused, self.reading = problem, self.reading, None
        self.changed.emit()

    def _on_sample_failed(self, problem: Problem) -> None:
        self.count_problem = problem
        self.changed.emit()

    def _on_settled(self) -> None:
        self._show_limit()
        if self._open and self.report is not None:
            self._count()
        self.changed.emit()

    def _show_limit(self) -> None:
        config = self._draft.config
        splits = self.report is not None and self.report.format == "text"
        self.table.set_limit(config.data.seq_len, "" if splits else config.data.too_long)
        settings = TokenSettings(self.model, config.data, config.training.method) if self.model else None
        self.row.see_with(settings)
        if self.filter == LONG:
            self.table.show_listed(self.table.long_rows())

    def _count(self) -> None:
        config = self._draft.config
        asked = Counting(self._dataset, self.model, config.data.train_on, config.training.method)
        if asked == self._asked_count:
            return
        self._asked_count = asked
        if self._count_job is not None:
            self._count_job.cancel()
            self._count_job = None
        self.counted = self.lengths = self.count_problem = None
        self.table.expect_lengths(bool(self.model))
        self.table.set_lengths(None)
        if not self.model:
            return
        self.counting_words = "Counting tokens"
        self._count_job = job = self._reader.ask(
            reading.CountTokens,
            dataset=self._dataset,
            model=self.model,
            data=config.data,
            method=config.training.method,
        )
        job.progress.connect(self._on_count_progress)
        job.answered.connect(self._on_counted)
        job.refused.connect(self._on_count_refused)

    def _on_count_progress(self, progress: reading.Progress) -> None:
        self.counting_words = f"{progress.words}: {progress.done:,} of {progress.total:,} rows"
        self.changed.emit()

    def _on_counted(self, answer: reading.TokensCounted) -> None:
        self._count_job = None
        self.counted, self.counting_words = answer, ""
        self.lengths = np.load(answer.lengths.file, mmap_mode="r", allow_pickle=False)
        self.table.set_lengths(self.lengths)
        self.changed.emit()

    def _on_count_refused(self, problem: Problem) -> None:
        self._count_job = None
        self.counting_words, self.count_problem = "", problem
        self.changed.emit()


def file_name(path: str) -> str:
    """As a title: the bundled data has a name of its own."""
    return "Sample data" if path == SAMPLE else Path(path).name
