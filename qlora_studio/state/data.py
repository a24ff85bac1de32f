"""What the Data page shows: data as it was read, its rows, their lengths, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from qlora_studio.state.data_findings import gravest_first, listed_words, nothing_to_learn, skipped_text
from qlora_studio.state.data_fixes import (
    AppliedFix,
    DataStep,
    applied_fixes,
    for_other_rows,
    lies_within,
    with_fix,
    without_fix,
)
from qlora_studio.state.data_import import DataImport
from qlora_studio.state.data_mix import (
    MixedSet,
    MixTable,
    mixture,
    with_files,
    with_part_read,
    with_part_recipe,
    with_weight,
    without_part,
)
from qlora_studio.state.data_name import data_name
from qlora_studio.state.data_row import ChosenRow, TokenSettings
from qlora_studio.state.data_rows import RowTable
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.named_rows import NamedRows
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Reader
from qlora_studio.state.sample_model import SampleModel
from qlora_studio.state.train_cost import Stretch, rows_seen, stretches

RECENT = 20  # imported files that are remembered

ALL, FLAGGED, LONG, SEARCH, NAMED = "all", "flagged", "long", "search", "named"
OF_SET = "set:"  # before the place of a data set in the mixture: its rows
_WAY = ("path", "format", "encoding", "alternatives", "map", "mix", "recipe")  # see `_way`


class DataState(QObject):
    """changed: anything of the below but the chosen row, which tells by itself.

    file:   the data on its way to rows
    data:   the data whose rows are shown and how it was read, None before the first import
    report: what came of it
    mix:    the data sets of a mixture; empty where it is none
    part:   the one of them that is looked at
    counts: how long its rows are
    doctor: what is odd about them, looked for while they are shown
    copy:   the rows on their way to a new file
    steps:  fixes that can be undone
    filter: all, flagged, long, search, named, set:0, or the key of a finding
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
        self.mix = MixTable(self)
        self.table = RowTable(quick_reader, self)
        self.row = ChosenRow(quick_reader, self)
        self.data: DataConfig | None = None
        self.report: ImportReport | None = None
        self.part = 0
        self.first_rows: tuple[Row, ...] = ()  # for whoever looks whether the columns are right
        self.filter = ALL
        self.filter_words = ""
        self._named: NamedRows | None = None  # that another page led to
        self._dataset = ""
        self._first_of = ("", 0)  # data set and row that `first_rows` begin with
        self._stepping = False  # a step is on its way; its rows are shown once they are there
        self._new_step: DataStep | None = None  # where that is one that was just taken
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
        self.mix.weighed.connect(self.weigh)

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

    def read_all(self, paths: Sequence[str]) -> None:
        """Several files, mixed into one data set. What is shown stays until the new rows are there."""
        different = list(dict.fromkeys(paths))
        if len(different) == 1:
            self.read(different[0])
        elif different:
            self._read(mixture(different, self._draft.config.data.alternatives))

    def read_as(self, format: str) -> None:
        """The last file in another format; columns that were chosen for it no longer hold.

        This and the next two: of a mixture, the data set that was refused, or else the one looked at.
        """
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
            self._draft.set_many({f"data.{name}": getattr(self.data, name) for name in _WAY})

    # Data sets of a mixture; each of these is a step that can be undone ------------------------------

    def add(self, paths: Sequence[str]) -> list[str]:
        """To what is shown, which becomes a mixture. Returns: those of them that are in it already."""
        if self.data is None:
            self.read_all(paths)
            return []
        there = self.data.paths
        new = [path for path in dict.fromkeys(paths) if path not in there]
        if new:
            self._change(with_files(self.data, new, self._draft.config.data.alternatives))
        return [path for path in paths if path in there]

    def remove(self, place: int) -> None:
        """Takes a data set out; the last one left is no mixture any more."""
        if self.data is not None and place < len(self.data.mix):
            self._change(without_part(self.data, place))

    def weigh(self, place: int, weight: float) -> None:
        """How often the rows of a data set are seen in an epoch: the rows on the screen stay as they are."""
        if self.data is None or self.file.busy or self.data.mix[place].weight == weight:
            return
        self.steps.push(DataStep(self._take_weights, self.data, with_weight(self.data, place, weight)))

    def choose_part(self, place: int) -> None:
        """The data set of the mixture that is looked at."""
        if place != self.part and place < len(self.mix.sets):
            self.part = place
            self._ask_first_rows()
            self.changed.emit()

    @property
    def chosen_set(self) -> MixedSet | None:
        """Of a mixture: the data set that is looked at."""
        return self.mix.sets[self.part] if self.mix.sets else None

    def set_of(self, row: int) -> MixedSet | None:
        """The data set of the mixture that a row comes from; None where it is no mixture."""
        place = self.mix.place_of(row)
        return None if place is None else self.mix.sets[place]

    def _take_weights(self, data: DataConfig) -> None:
        assert self.report is not None
        drafted = self.data == _way(self._draft.config.data)
        self.data = data
        self.file.rests_on(data)
        weighed = zip(self.report.parts, data.mix, strict=True)
        parts = tuple(msgspec.structs.replace(old, weight=part.weight) for old, part in weighed)
        self.report = msgspec.structs.replace(self.report, parts=parts)
        self._show_mix([one.report for one in self.mix.sets])
        if drafted:
            self.use()
        self.changed.emit()

    def _show_mix(self, reports: Sequence[ImportReport]) -> None:
        """reports: of each data set by itself; none: it is no mixture."""
        assert self.data is not None and self.report is not None
        together = zip(self.data.mix, reports, self.report.parts, strict=True)
        self.mix.show([MixedSet(part, own, now.first_row, now.rows) for part, own, now in together])
        self.part = min(self.part, max(len(self.mix.sets) - 1, 0))

    def read_beside(self, encoding: Encoding) -> None:
        """The file that the doctor could not read, with its letters stored in this way."""
        if self.doctor.beside == self.doctor.test:
            self.doctor.read_test_as(encoding)
        else:
            self._draft.set("data.validation_encoding", encoding)

    # Fixes ------------------------------------------------------------------------------------------

    def fix(self, key: str) -> None:
        """Does what this finding proposes. The rows change once they are mended."""
        finding = self.findings().get(key)
        if finding is not None and finding.fix is not None and self.data is not None:
            self._change(with_fix(self.data, finding.fix))

    def fix_set(self, key: str) -> None:
        """The same in the data set of the mixture that is looked at, and in no other."""
        finding = self.findings().get(key)
        if finding is not None and finding.fix is not None and self.can_fix_set(finding):
            assert self.data is not None
            recipe = self.data.mix[self.part].recipe
            self._change(with_part_recipe(self.data, self.part, (*recipe, finding.fix)))

    def can_fix_set(self, finding: Finding) -> bool:
        """Whether the fix would change that data set, as far as the rows of the finding are known."""
        one = self.chosen_set
        if one is None or finding.fix is None:
            return False
        return lies_within(finding, range(one.first_row, one.first_row + one.rows))

    def fixes(self) -> list[AppliedFix]:
        """Those in force, of a mixture also those of its data sets."""
        if self.report is None:
            return []
        return applied_fixes(self.report, [(one.name, one.report) for one in self.mix.sets])

    def undo_fix(self, fix: AppliedFix) -> None:
        """Takes one fix back, whichever; this too can be undone."""
        if self.data is None:
            return
        if fix.part is None:
            self._change(without_fix(self.data, fix.place))
        else:
            recipe = self.data.mix[fix.part].recipe
            left = recipe[: fix.place] + recipe[fix.place + 1 :]
            self._change(with_part_recipe(self.data, fix.part, left))

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
            step = DataStep(self._take_step, self.data, data)
            self.steps.push(step)
            self._new_step = step

    def _take_step(self, data: DataConfig) -> None:
        self._new_step = None
        self.counts.give_up()
        self.file.read(data)
        self._stepping = True

    def _read_otherwise(self, **changes: Any) -> None:
        asked = self.file.asked
        if asked is None:
            return
        if not asked.mix or not changes:
            recipe = for_other_rows(asked.recipe) if changes else asked.recipe
            self._read(msgspec.structs.replace(asked, recipe=recipe, **changes))
            return
        place = self.part if self.file.refused is None else self.file.refused
        data = with_part_read(asked, place, **changes)
        if self.data is None:
            self._read(data)
        else:
            self._change(data)

    def _read(self, data: DataConfig) -> None:
        self.steps.clear()
        self._stepping = False
        self._named = None
        if self.data is not None and (data.path, data.mix) != (self.data.path, self.data.mix):
            self.doctor.leave_test()
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
        """name: all, flagged, long, set:0, or the key of a finding."""
        rows = self._rows_of(name)
        self.filter, self.filter_words = name, ""
        if rows is None:
            self.filter = ALL
            self.table.show_all()
        else:
            finding = self.findings().get(name)
            self.table.show_listed(rows, finding.groups if finding is not None else ())
            if finding is not None:
                self.filter_words = listed_words(finding)
            elif name == NAMED and self._named is not None:
                self.filter_words = self._named.words + self._changed_since(self._named)
            elif name.startswith(OF_SET):
                self.filter_words = f"the {len(rows):,} rows of {self._set_named(name).name}"
        self.changed.emit()

    def _changed_since(self, named: NamedRows) -> str:
        same = self.report is None or named.sha256 in ("", self.report.sha256)
        return "" if same else ". The data has changed since: other rows may stand there now"

    def _set_named(self, name: str) -> MixedSet:
        return self.mix.sets[int(name.removeprefix(OF_SET))]

    def show_named(self, named: NamedRows) -> None:
        """Rows that another page names; their data is read first where another is shown. The draft stays."""
        is_shown = self.data is not None and _way(self.data) == _way(named.data) and not self.file.busy
        if not is_shown:
            self._read(_way(named.data))
        self._named = named
        if is_shown:
            self._list_named()

    def _list_named(self) -> None:
        self.show(NAMED)
        self.choose(0)

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
            case "named":
                named = self._named.rows if self._named is not None else ()
                there = self.report.conversations if self.report is not None else 0
                return np.array([row for row in named if row < there], dtype=np.int64)
        if name.startswith(OF_SET):
            one = self._set_named(name)
            return np.arange(one.first_row, one.first_row + one.rows, dtype=np.int64)
        finding = self.findings().get(name)
        if finding is None:
            return None
        rows = [row for group in finding.groups for row in group] or finding.rows
        return np.array(rows, dtype=np.int64)

    # What is known ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the file, or of the mixture."""
        return "" if self.data is None else data_name(self.data)

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
        return self.report is not None and all(part.split for part in self.stretches())

    def stretches(self) -> tuple[Stretch, ...]:
        """What the rows are treated as: those of a mixture by their data sets."""
        if self.report is None:
            return ()
        formats = [one.report.format for one in self.mix.sets]
        return stretches(self.report, formats, has_source=self.has_source)

    @property
    def has_source(self) -> bool:
        """The model that counted is an encoder-decoder: a row is a source with its target."""
        return self.counts.counted is not None and self.counts.counted.has_source

    @property
    def asks_about_skipped(self) -> bool:
        """So much was skipped that somebody should look before it is used (D3)."""
        report = self.report
        if report is None or report.sha256 in self._draft.skipped_accepted:
            return False
        return report.many_skipped

    def findings(self) -> dict[str, Finding]:
        """Of the import or the doctor, and of the token counts; keys: see `gravest_first`."""
        if self.report is None:
            return {}
        known = self.report.findings if self.doctor.findings is None else self.doctor.findings
        if self.counts.counted is None:
            return gravest_first(known)
        lengths = self.counts.counted.lengths
        found = nothing_to_learn(lengths.nothing_to_learn, self.report.format, lengths.refused)
        return gravest_first([*known, *found])

    def split(self) -> tuple[int, int]:
        """About how many rows are for training and for evaluation; a file of its own counts apart."""
        if self.report is None:
            return 0, 0
        rows = rows_seen(self.stretches())
        share = self._draft.value("data.validation")
        apart = max(1, round(share * rows)) if not isinstance(share, str) and share > 0 and rows > 1 else 0
        lengths = self.counts.lengths
        if lengths is None or not rows:
            return rows - apart, apart
        kept = lengths[:, 1] > 0
        if self._draft.value("data.too_long") == "drop":
            kept[self.table.long_rows()] = False
        left = rows_seen(self.stretches(), kept)
        apart = round(apart * left / rows)
        return left - apart, apart

    def skipped_text(self) -> str:
        """Every skipped line that is known, with its reason: to copy or to keep."""
        return "" if self.report is None else skipped_text(self.report)

    def save_skipped(self, file: Path) -> str:
        """A few thousand lines at most. Returns: why they could not be written; empty where they are."""
        try:
            file.write_text(self.skipped_text(), "utf-8")
        except OSError as error:
            return f"{file} could not be written: {error.strerror}."
        return ""

    # What is heard ----------------------------------------------------------------------------------

    def _on_imported(self, answer: reading.DataImported) -> None:
        assert self.file.asked is not None
        drafted = self._stepping and self.data == _way(self._draft.config.data)
        self._stepping = False
        self.data, self.report, self._dataset = self.file.asked, answer.report, answer.dataset
        self._show_mix(self.file.reports)
        self.filter, self.filter_words = ALL, ""
        for path in reversed(self.data.paths):
            self._remember(path)
        self.doctor.forget()
        self.table.show_dataset(self._dataset, answer.report.conversations, answer.report.findings)
        self._see()
        self.row.choose(self._dataset, 0)
        self._ask_first_rows()
        if drafted:
            self.use()  # the next run had the rows before the step: it has these now
        if self._named is not None and _way(self._named.data) == _way(self.data):
            self._list_named()
        self._on_settled()

    def _remember(self, path: str) -> None:
        if path not in ("", SAMPLE):
            others = [other for other in self._preferences.values.data if other != path]
            self._preferences.set("data", [path, *others][:RECENT])

    def _on_file(self) -> None:
        self.mix.allow_edits(not self.file.busy)
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

    def _ask_first_rows(self) -> None:
        """Of the file, or of the data set in the mixture that is looked at."""
        start = self.chosen_set.first_row if self.chosen_set is not None else 0
        self.first_rows = ()
        self._first_of = asked = (self._dataset, start)
        job = self._quick_reader.ask(reading.ShowRows, dataset=self._dataset, start=start, count=3)
        job.answered.connect(lambda answer: self._on_first_rows(asked, answer))

    def _on_first_rows(self, asked: tuple[str, int], answer: reading.RowsShown) -> None:
        if asked == self._first_of:
            self.first_rows = answer.rows
            self.changed.emit()

    def _on_settled(self) -> None:
        moved = self._see()
        config = self._draft.config
        if self._open and self.data is not None and self.report is not None and not self.file.busy:
            self.counts.count(self._dataset, self.model, config.data, config.training.method)
            self.doctor.look(self._dataset, self.report.conversations, self.data, config.data)
        if moved and self.filter == LONG:
            self.table.show_listed(self.table.long_rows())
        self.changed.emit()

    def _see(self) -> bool:
        """Rows as the settings in force have them. Returns: whether the limit is another."""
        config, model = self._draft.config, self.model
        self.table.expect_lengths(bool(model))
        self.row.see_with(TokenSettings(model, config.data, config.training.method) if model else None)
        split = tuple((part.first, part.last) for part in self.stretches() if part.split)
        target_len = config.data.target_len if self.has_source else 0
        return self.table.set_limit(config.data.seq_len, config.data.too_long, split, target_len)

    def _on_counts(self) -> None:
        self.table.set_lengths(self.counts.lengths)
        self._see()
        self.changed.emit()

    def _on_doctor(self) -> None:
        if self.doctor.findings is not None:
            self.table.set_flags(self.doctor.findings)
        self.changed.emit()


def _way(data: DataConfig) -> DataConfig:
    """Which files, and how they are read and mended; of the other settings the defaults."""
    return DataConfig(**{name: getattr(data, name) for name in _WAY})
