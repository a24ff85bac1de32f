"""What the Data page shows: a file as it was read, its rows, their lengths, and what is odd about them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QUndoStack

from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.data.conversation import Row
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.protocol import reading
from qlora_studio.state.data_copy import DataCopy
from qlora_studio.state.data_counts import TokenCounts
from qlora_studio.state.data_doctor import DataDoctor
from qlora_studio.state.data_fixes import ReadAnew, for_other_rows, with_fix, without_fix
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
    doctor: what is odd about them, looked for while they are shown
    copy:   the rows on their way to a new file
    steps:  fixes that can be undone
    filter: all, flagged, long, search, or the kind of a finding
    """

    changed = Signal()

    def __init__(
        self,
        reader: Reader,
        quick_reader: Reader,
        doctor_reader: Reader,
        draft: RunDraft,
        sample_model: SampleModel,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        """quick_reader: for what a person waits for while `reader` counts and `doctor_reader` looks."""
        super().__init__(parent)
        self._quick_reader = quick_reader
        self._draft = draft
        self._sample_model = sample_model
        self._preferences = preferences
        self.file = DataImport(reader, self)
        self.counts = TokenCounts(reader, self)
        self.doctor = DataDoctor(doctor_reader, self)
        self.copy = DataCopy(reader, self)
        self.steps = QUndoStack(self)
        self.table = RowTable(quick_reader, self)
        self.row = ChosenRow(quick_reader, self)
        self.data: DataConfig | None = None
        self.report: ImportReport | None = None
        self.first_rows: tuple[Row, ...] = ()  # for whoever looks whether the columns are right
        self.filter = ALL
        self.filter_words = ""
        self._dataset = ""
        self._stepping = False  # a step is on its way; its rows are shown once they are there
        self._new_step: ReadAnew | None = None  # where that is one that was just taken
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
        self.doctor.changed.connect(self._on_doctor)
        self.copy.changed.connect(self.changed)

    # What the page asks -----------------------------------------------------------------------------

    def look(self) -> None:
        """The page is in front: from now on tokens are counted. Another file that Train names is read."""
        self._open = True
        drafted = _way(self._draft.config.data)
        if drafted != self._drafted:
            self._drafted = drafted
            if self.data is None or _way(self.data) != drafted:
                self._read(drafted)
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
        alternatives = self._draft.config.data.alternatives
        self._read(
            DataConfig(
                path=path, format=format, encoding=encoding, alternatives=alternatives, map=columns or {}
            )
        )

    def read_as(self, format: str) -> None:
        """The last file in another format; columns that were chosen for it no longer hold."""
        self._read_otherwise(format=format, map={})

    def read_encoded(self, encoding: Encoding) -> None:
        """The last file, with its letters stored in this way."""
        self._read_otherwise(encoding=encoding)

    def read_columns(self, columns: dict[str, str], format: str = "auto") -> None:
        """The last file, with these columns for these fields."""
        self._read_otherwise(format=format, map=dict(columns))

    def read_again(self) -> None:
        """The last file, as it lies on the disk now."""
        self._read_otherwise()

    def use(self) -> None:
        """For the next run."""
        if self.data is not None:
            self._drafted = self.data
            names = ("path", "format", "encoding", "alternatives", "map", "mix", "recipe")
            self._draft.set_many({f"data.{name}": getattr(self.data, name) for name in names})

    # Fixes ------------------------------------------------------------------------------------------

    def fix(self, kind: str) -> None:
        """Does what the finding of this kind proposes. The rows change once they are mended."""
        finding = self._finding(kind)
        if finding is not None and finding.fix is not None and self.data is not None:
            self._change(with_fix(self.data, finding.fix))

    def undo_fix(self, place: int) -> None:
        """Takes one fix back, whichever; this too can be undone. place: in the recipe, from 0."""
        if self.data is not None:
            self._change(without_fix(self.data, place))

    def undo(self) -> bool:
        """One step back; a step that is still on its way is stopped. False where there is none."""
        if self._stepping:
            self.file.stop()
            return True
        if not self.steps.canUndo():
            return False
        self.steps.undo()
        return True

    def redo(self) -> bool:
        """One step forward again. False where there is none."""
        if self.file.busy or not self.steps.canRedo():
            return False
        self.steps.redo()
        return True

    def _change(self, data: DataConfig) -> None:
        """One at a time: what a step is made from has to be on the screen."""
        if self.data is not None and not self.file.busy:
            step = ReadAnew(self._take_step, self.data, data)
            self.steps.push(step)
            self._new_step = step

    def _take_step(self, data: DataConfig) -> None:
        self._new_step = None
        self.counts.give_up()
        self.file.read(data)
        self._stepping = True

    def _read_otherwise(self, **changes: object) -> None:
        asked = self.file.asked
        if asked is not None:
            recipe = for_other_rows(asked.recipe) if changes else asked.recipe
            self._read(msgspec.structs.replace(asked, recipe=recipe, **changes))

    def _read(self, data: DataConfig) -> None:
        self.steps.clear()
        self._stepping = False
        if self.data is not None and (data.path, data.mix) != (self.data.path, self.data.mix):
            self.doctor.test = ""  # it was chosen for other data
        self.counts.give_up()  # or the file would wait for it
        self.file.read(data)

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

    def save_copy(self, path: str) -> None:
        """The rows as they are now, to a new file. Ends in `copy.saved` or `copy.refused`."""
        self.copy.save(self._dataset, path)

    # Which rows are listed --------------------------------------------------------------------------

    def show(self, name: str) -> None:
        """name: all, flagged, long, or the kind of a finding."""
        rows = self._rows_of(name)
        self.filter, self.filter_words = name, ""
        if rows is None:
            self.filter = ALL
            self.table.show_all()
        else:
            finding = self._finding(name)
            self.table.show_listed(rows, finding.groups if finding is not None else ())
            if finding is not None:
                self.filter_words = _listed_words(finding)
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
        if finding is None:
            return None
        rows = [row for group in finding.groups for row in group] or finding.rows
        return np.array(rows, dtype=np.int64)

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
        known = self.report.findings if self.doctor.findings is None else self.doctor.findings
        found = [*known, *self._findings_of_tokens()]
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
        rated = self.report is not None and self.report.format in ("kto", "hh_rlhf")
        why = "Their answers are empty, or the template can't render them. They are not trained on."
        return [
            Finding(
                kind=NOTHING,
                tone="info" if rated else "bad",
                count=nothing,
                words=f"{nothing:,} {rows} no token to learn",
                why=f"Answers rated bad are among them. {why}" if rated else why,
            )
        ]

    # What is heard ----------------------------------------------------------------------------------

    def _on_imported(self, answer: reading.DataImported) -> None:
        assert self.file.asked is not None
        drafted = self._stepping and self.data == _way(self._draft.config.data)
        self._stepping = False
        self.data, self.report, self._dataset = self.file.asked, answer.report, answer.dataset
        self.first_rows = ()
        self.filter, self.filter_words = ALL, ""
        self._remember(self.data.path)
        self.doctor.forget()
        self.table.show_dataset(self._dataset, answer.report.conversations, answer.report.findings)
        self._see()
        self.row.choose(self._dataset, 0)
        first = self._quick_reader.ask(reading.ShowRows, dataset=self._dataset, start=0, count=3)
        first.answered.connect(self._on_first_rows)
        if drafted:
            self.use()  # the next run had the rows before the step: it has these now
        self._on_settled()

    def _remember(self, path: str) -> None:
        if path not in ("", SAMPLE):
            others = [other for other in self._preferences.values.data if other != path]
            self._preferences.set("data", [path, *others][:RECENT])

    def _on_file(self) -> None:
        if not self.file.busy:
            self._take_back_step()
            self._settle.start()  # refused or stopped: the rows that are still there are counted again
        self.changed.emit()

    def _take_back_step(self) -> None:
        """It was refused or stopped: the rows on the screen are those from before it."""
        if not self._stepping:
            return
        self._stepping = False
        if self._new_step is None:
            self.steps.clear()  # it went back or forward, and the rows didn't
        else:
            self._new_step.setObsolete(True)
            self.steps.undo()  # which forgets it

    def _on_first_rows(self, answer: reading.RowsShown) -> None:
        self.first_rows = answer.rows
        self.changed.emit()

    def _on_settled(self) -> None:
        moved = self._see()
        config = self._draft.config
        if self._open and self.report is not None and not self.file.busy:
            self.counts.count(self._dataset, self.model, config.data, config.training.method)
            self.doctor.look(self._dataset, self.report.conversations, config.data)
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

    def _on_doctor(self) -> None:
        if self.doctor.findings is not None:
            self.table.set_flags(self.doctor.findings)
        self.changed.emit()


def _listed_words(finding: Finding) -> str:
    """What the list shows, and that it isn't all where it isn't."""
    if finding.groups:
        grouped = sum(len(group) for group in finding.groups)
        return f"{finding.words}. The first {grouped:,} rows of its groups, those of a group together"
    listed = len(finding.rows)
    return f"the first {listed:,} of {finding.words}" if 0 < listed < finding.count else finding.words


def _way(data: DataConfig) -> DataConfig:
    """Which files, and how they are read and mended; of the other settings the defaults."""
    return DataConfig(
        path=data.path,
        format=data.format,
        encoding=data.encoding,
        alternatives=data.alternatives,
        map=data.map,
        mix=data.mix,
        recipe=data.recipe,
    )
