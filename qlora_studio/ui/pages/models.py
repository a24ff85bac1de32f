"""Models: a model on disk, known to be sound, and known to fit."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QModelIndex, QSortFilterProxyModel, Qt, QUrl
from PySide6.QtGui import QAction, QDesktopServices, QKeySequence
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QHeaderView, QVBoxLayout, QWidget

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.memory.promise import Promise
from qlora_studio.models.report import ModelReport
from qlora_studio.state.app import AppState
from qlora_studio.state.models import Entry
from qlora_studio.ui.figures import in_gb, in_gib
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.models_quantization import QuantizationCard
from qlora_studio.ui.pages.tinted_cells import TintedCells
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ElidedLabel,
    EmptyState,
    IconButton,
    IconLabel,
    Part,
    PlainLabel,
    PrimaryButton,
    SearchBox,
    SecondaryButton,
    StackedBar,
    Swatch,
    TableView,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.rows import in_line
from qlora_studio.ui.widgets.text_size import at_text_size

PRESETS_SHOWN = 4
PARTS = {  # in the order of the bar
    "weights": "Weights",
    "adapter": "Adapter",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits": "Logits",
    "other": "Other",
}
WIDTHS = (0, 84, 100, 124, 168)  # px of the table's columns at 100 %; 0: what is left


class ModelsPage(Page):
    """The table on the left, the chosen model on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "models", "Models")
        self._state = app.models
        self._build_page()
        self._bind()

    def opened(self, what: object) -> None:
        """what: a folder that was dropped on the window, "sample", or None."""
        if isinstance(what, Path):
            self._search.clear()
            self._state.add_folder(what)
        elif what == SAMPLE:
            self._state.choose(SAMPLE)
        self._state.look()

    def rescan(self) -> None:
        """F5: checks every model again."""
        self._state.look(again=True)
        self.app.quantization.look_at(self._state.chosen, again=True)

    # Layout -----------------------------------------------------------------------------------------

    def _build_page(self) -> None:
        self._add = SecondaryButton("Add folder…", "folder-plus", name="models_add_folder")
        self.add_header(self._add)
        card = Card(name="models_list")
        self._search = self.search = SearchBox("Search models", name="models_search")
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self._state.table)
        self._proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self._table = TableView(name="models_table", label="Models on disk")
        self._table.setModel(self._proxy)
        self._table.setItemDelegate(TintedCells(self._table))
        at_text_size(self._table, self._table.setMinimumHeight, 180)
        self._show_all = SecondaryButton("Show all", name="models_show_all")
        self._nothing = EmptyState("search", "No model", "", self._show_all, name="models_nothing_found")
        card.body.addWidget(self._search)
        card.body.addWidget(self._table, 1)
        card.body.addWidget(self._nothing, 1)
        self.main.addWidget(card, 1)
        self._detail = ModelCard()
        self._use = self._detail.use
        self._needs = NeedsCard()
        self.side.addWidget(self._detail)
        self.side.addWidget(self._needs)
        self._quantization = QuantizationCard(self.app.quantization)
        self.side.addWidget(self._quantization)
        self.side.addStretch(1)
        for words, keys, slot in (
            ("Use for training", "Return", self._on_use),
            ("Add folder…", "Ctrl+O", self._on_add),
            ("Take off the list", "Del", self._on_forget),
        ):
            action = QAction(words, self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            (self._table if keys in ("Return", "Del") else self).addAction(action)
            self.menu.addAction(action)

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._search.textChanged.connect(self._on_search)
        self._show_all.clicked.connect(self._search.clear)
        theme().changed.connect(self._fit_columns)
        self._fit_columns()
        self._on_search("")
        self._table.selectionModel().currentRowChanged.connect(self._on_row)
        self._add.clicked.connect(self._on_add)
        self._use.clicked.connect(self._on_use)
        self._detail.unpack.clicked.connect(self._state.unpack_sample)
        self._detail.forget.clicked.connect(self._on_forget)
        self._detail.again.clicked.connect(lambda: self._state.check(self._state.chosen))
        self._detail.open_folder.clicked.connect(self._on_open_folder)
        self.app.quantization.saved.connect(self._on_saved)

    def _on_row(self, current: QModelIndex) -> None:
        row = self._proxy.mapToSource(current).row()
        if row >= 0:
            self._state.choose(self._state.table.entries[row].path)

    def _on_search(self, text: str) -> None:
        self._proxy.setFilterFixedString(text)
        found = self._proxy.rowCount() > 0 or not text
        self._table.setVisible(found)
        self._nothing.setVisible(not found)
        self._nothing.set_words("No model found", f"No model on the list is called {text}.")

    def _on_add(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a model folder")
        if name:
            self._search.clear()
            self._state.add_folder(Path(name))

    def _on_open_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self._detail.folder()))

    def _on_use(self) -> None:
        if self._use.isEnabled():
            self._state.use()
            self.app.show_page("train")

    def _on_forget(self) -> None:
        path = self._state.chosen
        if not self._state.can_forget(path):
            return
        self._state.forget(path)
        self.app.notices.say(
            f"{Path(path).name} is off the list; its folder stays.",
            undo=lambda: self._state.add_folder(Path(path)),
        )

    def _on_saved(self, folder: Path) -> None:
        self.app.notices.say(f"Saved in {folder}.")

    def _refresh(self) -> None:
        entry = self._state.entry()
        if entry is None:
            return
        self._quantization.setVisible(entry.usable)
        self.app.quantization.look_at(entry.path)
        self._detail.show_entry(entry, self._state.can_forget(entry.path))
        self._needs.show_promises(self._state.promises())
        self._show_chosen()

    def _show_chosen(self) -> None:
        """The row of what is shown at the right."""
        source = self._state.table.index(self._state.row(self._state.chosen), 0)
        index = self._proxy.mapFromSource(source)
        if index.isValid() and index.row() != self._table.currentIndex().row():
            self._table.setCurrentIndex(index)

    def _fit_columns(self) -> None:
        """The name takes what the others leave."""
        head = self._table.horizontalHeader()
        head.setStretchLastSection(False)
        head.setMinimumSectionSize(theme().px(80))
        for column, width in enumerate(WIDTHS):
            mode = QHeaderView.ResizeMode.Interactive if width else QHeaderView.ResizeMode.Stretch
            head.setSectionResizeMode(column, mode)
            if width:
                self._table.setColumnWidth(column, theme().px(width))


class ModelCard(Card):
    """What the check of the chosen model found, and what can be done with it."""

    def __init__(self) -> None:
        super().__init__("Model", name="models_detail")
        self._lines = QVBoxLayout()
        self._lines.setSpacing(theme().px(8))
        self._shown: list[tuple[str, str, str]] = []
        self._folder = ElidedLabel("", "note", name="models_folder")
        self.open_folder = IconButton("folder-open", "Open folder", small=True, name="models_open_folder")
        self.use = PrimaryButton("Use for training", "arrow-right", name="models_use")
        self.again = SecondaryButton("Check again", "refresh-cw", small=True, name="models_check")
        self.forget = SecondaryButton("Take off the list", small=True, name="models_forget")
        self.unpack = SecondaryButton("Unpack it now", small=True, name="models_unpack_sample")
        where = QHBoxLayout()
        where.setSpacing(theme().px(8))
        where.addWidget(self._folder, 1)
        where.addWidget(self.open_folder)
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        for button in (self.again, self.forget, self.unpack):
            buttons.addWidget(button)
        buttons.addStretch()
        self.body.addLayout(self._lines)
        self.body.addLayout(where)
        self.body.addLayout(buttons)
        self.body.addWidget(self.use, 0, Qt.AlignmentFlag.AlignLeft)

    def folder(self) -> str:
        """Of the model that is shown."""
        return self._folder.full_text()

    def show_entry(self, entry: Entry, can_forget: bool) -> None:
        """One line a finding, the worst first."""
        self.title.setText(entry.name)
        findings = _findings(entry)
        if findings != self._shown:
            self._shown = findings
            empty_layout(self._lines)
            for icon, tone, words in findings:
                self._lines.addWidget(_Finding(icon, tone, words))
        self._folder.setText(entry.report.folder if entry.report else entry.path)
        waiting = entry.path == SAMPLE and entry.report is None
        self._folder.setVisible(not waiting)
        self.open_folder.setVisible(not waiting)
        self.unpack.setVisible(waiting and not entry.words)
        self.again.setVisible(not waiting and not entry.words)
        self.forget.setVisible(can_forget)
        allow(self.use, "" if entry.usable else findings[0][2])


class _Finding(QWidget):
    def __init__(self, icon: str, tone: str, words: str) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme().px(8))
        row.addWidget(IconLabel(icon, tone), 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(PlainLabel(words, wrap=True), 1)


class NeedsCard(Card):
    """What training it takes, with each preset."""

    def __init__(self) -> None:
        super().__init__("Memory to train", name="models_needs")
        self._bar = StackedBar(name="models_needs_bar", label="Memory with the first preset")
        self._grid = QGridLayout()
        self._grid.setVerticalSpacing(theme().px(6))
        self._grid.setColumnStretch(0, 1)
        self._rows: list[tuple[PlainLabel, PlainLabel, IconLabel]] = []
        for row in range(PRESETS_SHOWN):
            cells = (PlainLabel(""), PlainLabel("", "strong"), IconLabel("circle"))
            cells[1].setAlignment(Qt.AlignmentFlag.AlignRight)
            for column, cell in enumerate(cells):
                self._grid.addWidget(cell, row, column)
            self._rows.append(cells)
        self._by_part = PlainLabel("", "note", wrap=True)
        legend = Flow(gap=10, line_gap=2)
        for part, words in PARTS.items():
            legend.addWidget(in_line(Swatch(f"vram_{part}"), PlainLabel(words, "note")))
        self.body.addWidget(self._bar)
        self.body.addLayout(legend)
        self.body.addWidget(self._by_part)
        self.body.addLayout(self._grid)

    def show_promises(self, promises: list[tuple[str, Promise]]) -> None:
        """Icon, words and GiB: never a colour alone."""
        self.setVisible(bool(promises))
        if not promises:
            return
        named, first = promises[0]
        self._by_part.setText(f"The bar is that of {named}.")
        free = (first.free_bytes or 0) / 2**30
        parts = [Part(name, count / 2**30, f"vram_{name}") for name, count in first.parts.items()]
        self._bar.set_parts(parts, limit=free, total=free * 1.04)
        self.set_note(f"{in_gib(first.free_bytes or 0)} free now")
        for row, (name, gib, icon) in enumerate(self._rows):
            shown = row < len(promises)
            for cell in (name, gib, icon):
                cell.setVisible(shown)
            if shown:
                words, promised = promises[row]
                name.setText(words)
                gib.setText(in_gib(promised.total))
                icon.set_icon(*(("check", "ok") if promised.fits else ("circle-alert", "bad")))
                icon.setToolTip("Fits" if promised.fits else "Does not fit")


def _findings(entry: Entry) -> list[tuple[str, str, str]]:
    """Icon, tone, words."""
    if entry.words:
        return [("hourglass", "muted", entry.words)]
    if entry.problem is not None:
        return [("circle-alert", "bad", f"{entry.problem.message} {entry.problem.hint}".strip())]
    report = entry.report
    if report is None:
        return [("package-check", "muted", "Comes with the application; unpacked on its first use, once.")]
    size = f"{report.parameters / 1e6:,.0f} M parameters"
    template = "with a chat template" if report.has_template else "without a chat template"
    return [
        *(("triangle-alert", "warn", warning) for warning in report.warnings),
        ("check", "ok", f"{size}, {report.family} family, {template}"),
        (
            "check",
            "ok",
            f"{report.tensors:,} tensors in safetensors, {in_gb(report.bytes)}: all as they must be",
        ),
        ("info", "muted", _reads(report)),
        ("file-text", "muted", f"Licence: {report.licence or 'not stated in the folder'}"),
    ]


def _reads(report: ModelReport) -> str:
    most = f"{report.max_position_embeddings:,} tokens"
    if report.shape.decoder is None:
        return f"Reads up to {most}"
    return f"An encoder and a decoder: made to read sources and to write targets of up to {most} each"
