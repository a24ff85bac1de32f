"""Train: settings with their cost in sight, and the start."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QWidget

from qlora_studio.config.presets import Preset
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.config.toml_file import read_run_config, run_config_text
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.reading import RunPrepared
from qlora_studio.state.app import AppState
from qlora_studio.state.launch import device_and_room
from qlora_studio.state.train import Mend
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.train_fields import SettingField
from qlora_studio.ui.pages.train_length import LengthCard
from qlora_studio.ui.pages.train_presets import PresetChoice
from qlora_studio.ui.pages.train_side import CommandCard, HelpCard, ProblemsCard, PromiseCard
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    ChoiceBox,
    LinkButton,
    PlainLabel,
    PrimaryButton,
    SecondaryButton,
    Segmented,
    TextBox,
    Tile,
)

COLUMNS = 4
ADAPTER = ("lora.r", "lora.alpha", "lora.dropout", "lora.target_modules")
ADAPTER_SWITCHES = ("lora.use_rslora", "lora.use_dora")
MODEL = ("model.quantization", "model.compute_dtype", "training.method", "data.train_on")
MODEL_SWITCHES = ("model.double_quant", "data.packing")
LEARNING = (
    "training.learning_rate",
    "training.schedule",
    "training.warmup_steps",
    "training.epochs",
    "training.steps",
    "training.batch_size",
    "training.gradient_accumulation",
    "training.optimizer",
    "training.max_grad_norm",
    "training.weight_decay",
    "training.neftune_alpha",
    "training.recompute",
    "training.seed",
)
WHILE = (
    "checkpoints.every_steps",
    "checkpoints.keep",
    "checkpoints.evaluate_every_steps",
    "data.validation",
    "early_stopping.patience",
)
LENGTH = ("data.seq_len", "data.too_long")
SIMPLE = ("training.epochs", "training.learning_rate", "lora.r")


class TrainPage(Page):
    """See the design's Train page: what is chosen on the left, what it costs on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "train", "Train", action_bar=True)
        self._state = app.train
        self._draft = app.draft
        self._fields: list[SettingField] = []
        self._build_page()
        self._bind()

    def opened(self, what: object) -> None:
        """what: a RunConfig to show, as when a run's settings are copied, or None."""
        self._state.open()
        self._refresh()

    # Layout -----------------------------------------------------------------------------------------

    def _build_page(self) -> None:
        self._build_title_line()
        choice = self._build_choice()
        choice.keep_snug()
        self.main.addWidget(choice)
        self._presets = PresetChoice(self._draft)
        self._presets.keep_snug()
        self.main.addWidget(self._presets)
        self._length = LengthCard(self._draft, self._state)
        self._length.keep_snug()
        self.main.addWidget(self._length)
        self._simple = self._build_grid("Settings", "the rest stays as the preset has it", SIMPLE)
        self._elsewhere = LinkButton("", name="train_elsewhere", small=True)
        self._simple.body.addWidget(self._elsewhere)
        self._adapter = self._build_grid("Adapter", "", ADAPTER, ADAPTER_SWITCHES)
        self._learning = self._build_grid("Learning", "", LEARNING)
        self._while = self._build_grid("While it trains", "", WHILE)
        self._weights = self._build_grid("Model and data", "how they are read", MODEL, MODEL_SWITCHES)
        self._advanced = (self._weights, self._adapter, self._learning, self._while)
        for card in (self._simple, *self._advanced):
            card.keep_snug()
            self.main.addWidget(card)
        self.main.addStretch()
        self._promise = PromiseCard()
        self._problems = ProblemsCard()
        self._help = HelpCard()
        self._command = CommandCard()
        for card in (self._promise, self._problems, self._help, self._command):
            card.keep_snug()
            self.side.addWidget(card)
        self.side.addStretch()
        self._build_actions()
        self._build_menu()

    def _build_title_line(self) -> None:
        self.add_header(PlainLabel("Preset", "muted"))
        self._preset = ChoiceBox(self._preset_choices(), name="train_preset", label="Preset")
        self._preset.setMinimumWidth(theme().px(200))
        self.add_header(self._preset)
        self._mode = Segmented(
            [("simple", "Simple"), ("advanced", "Advanced")], label="How much is shown", name="train_mode"
        )
        self.add_header(self._mode)

    def _build_choice(self) -> Card:
        card = Card(name="train_choice")
        row = QHBoxLayout()
        row.setSpacing(theme().px(12))
        self._model = Tile("box", "Choose a model", "", name="train_model_path")
        self._model_chip = Chip("", "neutral", name="train_model_state")
        self._change_model = SecondaryButton(
            "Change", small=True, name="train_change_model", tip="Choose a model"
        )
        self._data = Tile("database", "Choose data", "", name="train_data_path")
        self._data_chip = Chip("", "neutral", name="train_data_state")
        self._change_data = SecondaryButton("Change", small=True, name="train_change_data", tip="Choose data")
        for tile, chip, button in (
            (self._model, self._model_chip, self._change_model),
            (self._data, self._data_chip, self._change_data),
        ):
            tile.add(chip)
            tile.add(button)
            row.addWidget(tile, 1)
        card.body.addLayout(row)
        return card

    def _build_grid(
        self, title: str, note: str, keys: tuple[str, ...], switches: tuple[str, ...] = ()
    ) -> Card:
        card = Card(title, note)
        grid = QGridLayout()
        grid.setHorizontalSpacing(theme().px(14))
        grid.setVerticalSpacing(theme().px(10))
        for place, key in enumerate(keys):
            grid.addWidget(self._field(key), place // COLUMNS, place % COLUMNS)
        for column in range(COLUMNS):
            grid.setColumnStretch(column, 1)
        card.body.addLayout(grid)
        if switches:
            row = QHBoxLayout()
            row.setSpacing(theme().px(24))
            for key in switches:
                row.addWidget(self._field(key))
            row.addStretch()
            card.body.addLayout(row)
        return card

    def _field(self, key: str) -> QWidget:
        field = SettingField(self._draft, key, self)
        field.looked_at.connect(self._on_looked_at)
        self._fields.append(field)
        return field.row

    def _build_actions(self) -> None:
        self._name = TextBox(name="train_name", label="Run name")
        self._name.setFixedWidth(theme().px(250))
        self._disk = Chip("", "neutral", "hard-drive", name="train_disk")
        self._waits = PlainLabel("", "muted", name="train_waits_for")
        self._cancel = SecondaryButton("Cancel", name="train_cancel")
        self._cancel.hide()
        self._start = PrimaryButton("Start training", "play", name="train_start")
        self.action_bar.addWidget(PlainLabel("Run name", "muted"))
        self.action_bar.addWidget(self._name)
        self.action_bar.addWidget(self._disk)
        self.action_bar.addStretch()
        self.action_bar.addWidget(self._waits)
        self.action_bar.addWidget(self._cancel)
        self.action_bar.addWidget(self._start)

    def _build_menu(self) -> None:
        for words, keys, slot in (
            ("Start training", "Ctrl+Return", self._on_start),
            ("Open settings file…", "Ctrl+O", self._on_open_file),
            ("Save settings file…", "Ctrl+S", self._on_save_file),
            ("Simple or advanced", "Ctrl+D", self._on_mode_key),
            ("Copy the command", "Ctrl+Shift+C", self._on_copy_key),
            ("Undo", "Ctrl+Z", self._draft.undo),
            ("Redo", "Ctrl+Shift+Z", self._draft.redo),
        ):
            action = QAction(words, self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            self.addAction(action)
            self.menu.addAction(action)

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._draft.changed.connect(self._on_draft_changed)
        self._preset.chosen.connect(self._on_preset)
        self._mode.changed.connect(self._on_mode)
        self._elsewhere.clicked.connect(lambda: self._on_mode("advanced"))
        self._presets.chosen.connect(self._on_preset)
        self._problems.chosen.connect(self._on_mend)
        self._command.copied.connect(self._on_copy)
        self._change_model.clicked.connect(lambda: self.app.show_page("models"))
        self._change_data.clicked.connect(lambda: self.app.show_page("data"))
        self._start.clicked.connect(self._on_start)
        self._cancel.clicked.connect(self.app.launcher.cancel)
        self._name.textEdited.connect(self._on_name_edited)
        self.app.launcher.changed.connect(self._refresh_actions)
        self.app.launcher.failed.connect(self._on_failed)
        self.app.launcher.prepared.connect(self._on_prepared)
        self.app.engine.changed.connect(self._refresh_actions)
        self._name_is_own = False
        self._on_mode("simple")
        self._on_draft_changed()

    def _on_draft_changed(self) -> None:
        self._preset.set_choices(self._preset_choices())
        self._presets.refresh()
        elsewhere = [key for key in self._draft.changed_keys() if key not in (*SIMPLE, *LENGTH)]
        settings = "setting differs" if len(elsewhere) == 1 else "settings differ"
        self._elsewhere.setText(f"{len(elsewhere)} more {settings} from the preset. Show")
        self._elsewhere.setVisible(bool(elsewhere) and self._mode.value() == "simple")

    def _on_preset(self, path: str) -> None:
        preset = next((item for item in self._draft.presets if str(item.path) == path), None)
        if preset is not None:
            self._draft.use_preset(preset)
            self._preset.set_choices(self._preset_choices())

    def _preset_choices(self) -> list[tuple[str, str]]:
        return [(str(preset.path), self._preset_words(preset)) for preset in self._draft.presets]

    def _preset_words(self, preset: Preset) -> str:
        changed = preset is self._draft.preset and bool(self._draft.changed_keys())
        return f"{preset.name}, changed" if changed else preset.name

    def _on_mode(self, mode: str) -> None:
        self._mode.set_value(mode)
        for card in (self._presets, self._simple):
            card.setVisible(mode == "simple")
        self._elsewhere.setVisible(mode == "simple")
        for card in self._advanced:
            card.setVisible(mode == "advanced")

    def _on_mode_key(self) -> None:
        self._on_mode("advanced" if self._mode.value() == "simple" else "simple")

    def _on_looked_at(self, key: str) -> None:
        self._help.show_field(self._draft.fields[key])

    def _on_mend(self, mend: Mend) -> None:
        if mend.accepts_skipped:
            self._state.accept_skipped()
        if mend.changes:
            self._draft.set_many(mend.changes)
        if mend.page:
            self.app.show_page(mend.page)

    def _on_name_edited(self, text: str) -> None:
        self._name_is_own = bool(text.strip())

    def _on_start(self) -> None:
        if not self._start.isEnabled():
            return
        self.banner.clear()
        name = self._name.text().strip() or self._state.suggested_name()
        self.app.launcher.start(self._draft.config, name, self._state.skipped_accepted)
        self.app.show_page("monitor")

    def _on_prepared(self, run: RunPrepared) -> None:
        self._name_is_own = False

    def _on_failed(self, problem: Problem) -> None:
        self.show_error(f"{problem.message} {problem.hint}".strip())
        self.app.show_page("train")

    def _on_copy(self, text: str) -> None:
        QGuiApplication.clipboard().setText(text)
        self.app.notices.say("Command copied")

    def _on_copy_key(self) -> None:
        self._on_copy(self._command.text())

    def _on_save_file(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save settings", f"{self._state.suggested_name()}.toml", "Settings (*.toml)"
        )
        if not name:
            return
        try:
            Path(name).write_text(run_config_text(self._draft.config), "utf-8")
        except OSError as error:
            self.show_error(f"{name} could not be saved: {error.strerror}.")
            return
        self.app.notices.say("Saved")

    def _on_open_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open settings", "", "Settings (*.toml)")
        if not name:
            return
        try:
            self._draft.replace(read_run_config(Path(name)))
        except StudioError as error:
            self.show_error(str(error))

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._refresh_tiles()
        self._length.refresh()
        device, free_bytes = device_and_room(self.app.engine)
        shape = self._state.shape()
        self._promise.show_promise(
            self._state.promise, device == "cuda", free_bytes, shape.layers if shape else 0
        )
        self._problems.show_problems(self._state.problems)
        config = self._draft.config
        trained = self._state.trained_parameters()
        if shape:
            share = trained / shape.parameters
            self._adapter.set_note(f"{trained / 1e6:,.1f} M parameters learn, {share:.1%} of the model's")
        batch, accumulate = config.training.batch_size, config.training.gradient_accumulation
        self._learning.set_note(
            f"effective batch {batch} × {accumulate} = {batch * accumulate:,} rows an update"
        )
        self._command.show_command(f"qlora-studio train {self._state.suggested_name()}.toml")
        self._refresh_actions()

    def _refresh_tiles(self) -> None:
        state, model_path = self._state, self._draft.value("model.path")
        name = "SmolLM2-135M-Instruct" if model_path == SAMPLE else Path(model_path).name
        if state.model_problem is not None:
            self._model.set_words(name, state.model_problem.message)
            self._model_chip.set("not usable", "bad", "circle-alert")
        else:
            self._model.set_words(name, self._model_note())
            self._model_chip.set(
                *(("checked", "ok", "check") if state.model else ("checking", "neutral", "hourglass"))
            )
        data_path = self._draft.value("data.path")
        name = "Sample: grade-school maths" if data_path == SAMPLE else Path(data_path).name
        if state.data_problem is not None:
            self._data.set_words(name, state.data_problem.message)
            self._data_chip.set("not usable", "bad", "circle-alert")
        elif state.data is None:
            self._data.set_words(name, state.data_words or "…")
            self._data_chip.set("reading", "neutral", "hourglass")
        else:
            tokens = f" · {state.counted.lengths.tokens:,} tokens" if state.counted else " · …"
            self._data.set_words(name, f"{state.data.conversations:,} rows{tokens}")
            findings = sum(finding.tone in ("bad", "warn") for finding in state.data.findings)
            self._data_chip.set(
                *(
                    (f"{findings} to look at", "warn", "triangle-alert")
                    if findings
                    else ("read", "ok", "check")
                )
            )

    def _model_note(self) -> str:
        if self._state.model is None:
            return self._state.model_words
        parameters = self._state.model.parameters / 1e6
        size = f"{parameters / 1e3:.2f} B" if parameters >= 1000 else f"{parameters:.0f} M"
        model = self._draft.config.model
        words = {"nf4": "NF4", "fp4": "FP4", "int8": "int8", "none": "16 bit"}[model.quantization]
        doubled = ", double quantized" if model.double_quant and model.quantization in ("nf4", "fp4") else ""
        return f"{size} · {words}{doubled}"

    def _refresh_actions(self) -> None:
        launcher = self.app.launcher
        if not self._name_is_own:
            self._name.setText(self._state.suggested_name())
        needed, free = self._state.disk_bytes(), self.app.machine.free_bytes
        if needed is not None and free is not None:
            self._disk.set(
                f"Needs {needed / 1e9:.1f} GB on disk, {free / 1e9:,.0f} free", "neutral", "hard-drive"
            )
        self._disk.setVisible(needed is not None)
        waits = launcher.words or self._state.waits_for
        self._waits.setText(f"Start waits for: {waits[:1].lower()}{waits[1:]}" if waits else "")
        self._start.setEnabled(not waits)
        self._cancel.setVisible(launcher.busy)
