"""Train: settings with their cost in sight, and the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QApplication, QFileDialog

from qlora_studio.config.presets import Preset
from qlora_studio.config.run_config import OF_THE_START, PREFERENCES, RunConfig
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.reading import RunPrepared
from qlora_studio.protocol.sweep_plan import OVER, offered
from qlora_studio.state.app import AppState
from qlora_studio.state.launch import device_and_room
from qlora_studio.state.train_problems import Mend
from qlora_studio.ui.figures import THIN
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.train_choice import ChoiceCard
from qlora_studio.ui.pages.train_compare import CompareQuestion
from qlora_studio.ui.pages.train_fields import SettingField
from qlora_studio.ui.pages.train_length import LengthCard
from qlora_studio.ui.pages.train_presets import PresetChoice
from qlora_studio.ui.pages.train_samples import SamplesEditor
from qlora_studio.ui.pages.train_side import CommandCard, HelpCard, ProblemsCard, PromiseCard
from qlora_studio.ui.pages.train_start import NARROW_BELOW, StartBar
from qlora_studio.ui.pages.train_targets import TargetPicker
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ChoiceBox, LinkButton, PlainLabel, Segmented
from qlora_studio.ui.widgets.columns import Columns

COLUMNS = 4
LEAST_WIDTH = 150  # px of a column at 100 %
START = "lora.start_from"  # in Simple it has a field where there is something to say
FINETUNING = "training.finetuning"
WHAT_LEARNS = (
    FINETUNING,
    START,
    "lora.r",
    "lora.alpha",
    "lora.dropout",
    "lora.target_modules",
    "lora.layers",
    "lora.ranks",
    "lora.alphas",
    "lora.init",
)
ADAPTER_SWITCHES = ("lora.use_rslora", "lora.use_dora")
MODEL = (
    "model.quantization",
    "model.compute_dtype",
    "training.method",
    "preference.beta",
    "preference.label_smoothing",
    "data.train_on",
    "data.alternatives",
    "data.encoding",
)
MODEL_SWITCHES = ("model.double_quant", "data.packing")
LEARNING = (
    "training.learning_rate",
    "training.loraplus_ratio",
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
    "training.compile",
    "training.seed",
)
FP8, KEEP_DEQUANTIZED = "training.fp8", "training.keep_dequantized"
EMBEDDING_IN_RAM = "training.embedding_in_ram"
LEARNING_SWITCHES = (FP8, KEEP_DEQUANTIZED, EMBEDDING_IN_RAM)
HELD_OUT_ENCODING = "data.validation_encoding"  # has a field where a file is held out, and no share
QUESTIONS = "checkpoints.questions"
WHILE = (
    "checkpoints.every_steps",
    "checkpoints.keep",
    "checkpoints.evaluate_every_steps",
    "data.validation",
    HELD_OUT_ENCODING,
    "early_stopping.patience",
    "checkpoints.evaluate_letters",
    "checkpoints.evaluate_numbers",
    QUESTIONS,
)
_COMPARE = "Compare ranks, layers, precision or finetuning…"
_COMPARE_ADAPTERS = (
    "Compare ranks, layers or precision…"  # all weights of an encoder-decoder can't be trained
)
# They have one way each: an adapter alike in all layers learns the last answer of chats; rows aren't packed,
# layers aren't compiled.
NOT_OF_ENCODER_DECODERS = (
    "training.method",
    "training.finetuning",
    START,
    "lora.layers",
    "lora.ranks",
    "lora.alphas",
    "data.train_on",
    "data.packing",
    "training.compile",
)
LENGTH = ("data.seq_len", "data.target_len", "data.too_long")
WHICH_LEARN = "an adapter, or all weights"
SIMPLE = ("training.epochs", "training.learning_rate", "lora.r", START)


class TrainPage(Page):
    """See the design's Train page: what is chosen on the left, what it costs on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "train", "Train", action_bar=True)
        self._state = app.train
        self._draft = app.draft
        self._fields: dict[str, SettingField] = {}
        self._grids: list[tuple[Columns, tuple[str, ...]]] = []  # and the keys that have their place there
        self._placed: object = None  # what the fields' places were chosen for
        self._looked_at = ""
        self._started_here = False

    def opened(self, what: object) -> None:
        """what: a RunConfig to show, as when a run's settings are copied, or None."""
        if isinstance(what, RunConfig):
            self._draft.replace(what)
        self._state.open()
        self._refresh()

    def undo(self) -> bool:
        """Ctrl+Z: the setting changed last."""
        return self._draft.undo()

    def redo(self) -> bool:
        """Ctrl+Shift+Z."""
        return self._draft.redo()

    # Layout -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[None]:
        """A card or two at a time."""
        yield from self._build_page()
        self._bind()

    def _build_page(self) -> Iterator[None]:
        self._build_title_line()
        self._choice = ChoiceCard(self._draft, self._state)
        yield
        self._presets = PresetChoice(self._draft)
        self._length = LengthCard(self._draft, self._state)
        for field in (self._length.seq_len, self._length.target_len, self._length.too_long):
            self._follow(field)
        yield
        self._simple = self._build_grid("Settings", "the rest stays as the preset has it", SIMPLE)
        self._elsewhere = LinkButton("", name="train_elsewhere", small=True)
        self._simple.body.addWidget(self._elsewhere)
        self._advanced: tuple[Card, ...] = ()  # built when they are first asked for: thirty fields take long
        for card in (self._choice, self._presets, self._length, self._simple):
            self.main.addWidget(card)
        self.main.addStretch(1)
        yield
        self._promise = PromiseCard()
        self._problems = ProblemsCard()
        self._help = HelpCard()
        self._command = CommandCard()
        for card in (self._promise, self._problems, self._help, self._command):
            self.side.addWidget(card)
        self.side.addStretch(1)
        yield
        self._bar = StartBar(self.app, self._state)
        self.action_bar.addWidget(self._bar)
        self._build_menu()

    def _build_advanced(self) -> None:
        weights = self._build_grid("Model and data", "how they are read", MODEL, MODEL_SWITCHES)
        adapter = self._build_grid("What learns", WHICH_LEARN, WHAT_LEARNS, ADAPTER_SWITCHES)
        self._adapter_note = adapter.note
        self._trained = PlainLabel("", "muted", name="train_trained")
        adapter.add_to_head(self._trained)
        learning = self._build_grid("Learning", "", LEARNING, LEARNING_SWITCHES)
        self._batch = PlainLabel("", "muted", name="train_batch")
        learning.add_to_head(self._batch)
        self._advanced = (weights, adapter, learning, self._build_while())
        for card in self._advanced:
            self.main.insertWidget(self.main.count() - 1, card)  # above what is left of the height

    def _build_title_line(self) -> None:
        self._preset_label = PlainLabel("Preset", "muted")
        self.add_header(self._preset_label)
        self._preset = ChoiceBox(self._preset_choices(), name="train_preset", label="Preset")
        self._preset_label.setBuddy(self._preset)
        self.add_header(self._preset)
        self._mode = Segmented(
            [("simple", "Simple"), ("advanced", "Advanced")], label="How much is shown", name="train_mode"
        )
        self.add_header(self._mode)

    def _build_grid(
        self, title: str, note: str, keys: tuple[str, ...], switches: tuple[str, ...] = ()
    ) -> Card:
        card = Card(title, note)
        card.note.setWordWrap(True)
        for part, gap in ((keys, 10), (switches, 0)):
            if part:
                columns = Columns(most=COLUMNS, least=LEAST_WIDTH, gap=14, line_gap=gap)
                for key in part:
                    self._add_field(key)
                card.body.addLayout(columns)
                self._grids.append((columns, part))
        return card

    def _build_while(self) -> Card:
        card = self._build_grid("While it trains", "", WHILE)
        self._prompts = PlainLabel("", "muted", wrap=True, name="train_samples_words")
        self._prompts.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._edit_prompts = LinkButton("Edit prompts…", name="train_samples_edit")
        self._edit_prompts.setCheckable(True)
        card.head.setStretchFactor(card.note, 0)
        card.head.addWidget(self._prompts, 1)
        card.add_to_head(self._edit_prompts)
        self._samples = SamplesEditor(self._state)
        self._samples.hide()
        self._edit_prompts.toggled.connect(self._on_edit_prompts)
        card.body.addWidget(self._samples)
        return card

    def _add_field(self, key: str) -> None:
        """One for each setting: those of Simple stand on another card in Advanced."""
        if key not in self._fields:
            field = SettingField(self._draft, key, self)
            field.choosing.connect(self._on_choosing)
            self._follow(field)

    def _follow(self, field: SettingField) -> None:
        field.looked_at.connect(self._on_looked_at)
        self._fields[field.key] = field

    def _build_menu(self) -> None:
        for words, keys, slot in (
            ("Start training", "Ctrl+Return", self._on_start),
            ("Open settings file…", "Ctrl+O", self._on_open_file),
            ("Save settings file…", "Ctrl+S", self._on_save_file),
            ("Simple or advanced", "Ctrl+D", self._on_mode_key),
            ("Copy the command", "Ctrl+Shift+C", self._on_copy),
            (_COMPARE, "", self._on_compare),
        ):
            action = QAction(words, self)
            if keys:
                action.setShortcut(QKeySequence(keys))
                action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            self.addAction(action)
            self.menu.addAction(action)
            if slot == self._on_compare:
                self._compare = action

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._state.refused.connect(self.show_error)
        self._draft.changed.connect(self._on_draft_changed)
        self._preset.chosen.connect(self._on_preset)
        self._mode.changed.connect(self._on_mode)
        self._elsewhere.clicked.connect(lambda: self._on_mode("advanced"))
        self._presets.chosen.connect(self._on_preset)
        self._problems.chosen.connect(self._on_mend)
        self._command.copied.connect(self._on_copy)
        self._choice.change_model.clicked.connect(lambda: self.app.show_page("models"))
        self._choice.change_data.clicked.connect(lambda: self.app.show_page("data"))
        self._bar.start.clicked.connect(self._on_start)
        self._bar.cancel.clicked.connect(self.app.launcher.cancel)
        self._bar.name.textEdited.connect(self._state.set_name)
        self.app.launcher.changed.connect(self._on_launcher)
        self.app.launcher.failed.connect(self._on_failed)
        self.app.launcher.cancelled.connect(self._on_cancelled)
        self.app.launcher.prepared.connect(self._on_prepared)
        self._on_mode("simple")
        self._on_draft_changed()

    def _on_draft_changed(self) -> None:
        self._preset.set_choices(self._preset_choices())
        if self._draft.preset is not None:
            self._preset.set_value(str(self._draft.preset.path))
        self._presets.refresh()
        elsewhere = [key for key in self._draft.changed_keys() if key not in (*SIMPLE, *LENGTH)]
        settings = "setting differs" if len(elsewhere) == 1 else "settings differ"
        self._elsewhere.setText(f"{len(elsewhere)} more {settings} from the preset. Show")
        self._elsewhere.setVisible(bool(elsewhere) and self._mode.value() == "simple")
        self._place_fields(self._mode.value())

    def _on_preset(self, path: str) -> None:
        preset = next((item for item in self._all_presets() if str(item.path) == path), None)
        if preset is not None:
            self._draft.use_preset(preset)
            self._on_draft_changed()

    def _preset_choices(self) -> list[tuple[str, str]]:
        """The one in force stands among them also where it is none of the list, as the sample's."""
        named = self._all_presets()
        if self._draft.preset is not None and self._draft.preset not in named:
            named.insert(0, self._draft.preset)
        return [(str(preset.path), self._preset_words(preset)) for preset in named]

    def _all_presets(self) -> list[Preset]:
        return [*self._draft.presets, *self._draft.recipes]

    def _preset_words(self, preset: Preset) -> str:
        changed = preset is self._draft.preset and bool(self._draft.changed_keys())
        return f"{preset.name}, changed" if changed else preset.name

    def _on_mode(self, mode: str) -> None:
        self._mode.set_value(mode)
        if mode == "advanced" and not self._advanced:
            self._build_advanced()
            self._refresh_advanced()
        for card in (self._presets, self._simple):
            card.setVisible(mode == "simple")
        for card in self._advanced:
            card.setVisible(mode == "advanced")
        self._on_draft_changed()

    def _place_fields(self, mode: str) -> None:
        unused = self._unused_keys(mode)
        placed = mode, unused, len(self._grids)
        if placed == self._placed:
            return
        self._placed = placed
        for columns, keys in self._grids:
            is_simple = keys == SIMPLE
            here = [key for key in keys if (key in SIMPLE and mode == "simple") == is_simple]
            for key in unused.intersection(here):
                self._fields[key].row.hide()
                here.remove(key)
            columns.show_widgets([self._fields[key].row for key in here])
            for key in here:
                self._fields[key].row.show()

    def _unused_keys(self, mode: str) -> frozenset[str]:
        """Settings that the others make meaningless."""
        method, start = self._draft.value("training.method"), self._draft.value(START)
        unused = {
            HELD_OUT_ENCODING: not isinstance(self._draft.value("data.validation"), str),
            "preference.beta": method not in PREFERENCES,
            "preference.label_smoothing": method != "dpo",
            "training.neftune_alpha": method in PREFERENCES,
            FP8: not self._state.may_multiply_in_fp8,
            KEEP_DEQUANTIZED: not self._state.may_keep_dequantized,
            EMBEDDING_IN_RAM: not self._state.may_put_embedding_in_ram,
            START: mode == "simple" and not start,
            **dict.fromkeys((*OF_THE_START, "lora.init"), bool(start)),
        }
        if self._state.has_source:
            unused |= dict.fromkeys(NOT_OF_ENCODER_DECODERS, True)
        if self._draft.config.trains_all:
            of_adapters = [key for key in self._draft.fields if key.startswith("lora.")]
            unused |= dict.fromkeys((*of_adapters, "training.loraplus_ratio"), True)
        return frozenset(key for key, is_unused in unused.items() if is_unused)

    def _on_mode_key(self) -> None:
        self._on_mode("advanced" if self._mode.value() == "simple" else "simple")

    def _on_looked_at(self, key: str) -> None:
        self._looked_at = key
        self._help.show_field(self._draft.fields[key])
        self._show_difference()

    def _show_difference(self) -> None:
        key = self._looked_at
        if key:
            self._promise.show_difference(self._draft.fields[key].setting.label, self._state.difference(key))

    def _on_edit_prompts(self, shown: bool) -> None:
        self._samples.setVisible(shown)
        self._edit_prompts.setText("Hide prompts" if shown else "Edit prompts…")
        if shown:
            self._state.suggest_prompts()
            self._samples.refresh()

    def _on_choosing(self, key: str) -> None:
        if key == START:
            self._choose_start()
            return
        if key == QUESTIONS:
            self._choose_questions()
            return
        shape = self._state.shape()
        if shape is None:
            self.app.notices.say("The layers are known once the model is checked.", "warn")
            return
        picker = TargetPicker(self._fields[key].widget, shape, self._draft.value(key))
        picker.chosen.connect(lambda value: self._draft.set(key, value))
        picker.open()

    def _choose_questions(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "Questions with letters to choose from")
        if file:
            self._draft.set(QUESTIONS, file)

    def _choose_start(self) -> None:
        runs = str(self.app.preferences.runs_folder)
        folder = QFileDialog.getExistingDirectory(self, "A run, or an adapter's folder", runs)
        if folder:
            self._draft.set(START, folder)

    def _on_mend(self, mend: Mend) -> None:
        if mend.accepts:
            self._state.accept(mend.accepts)
        if mend.changes:
            self._draft.set_many(mend.changes)
        if mend.name:
            self._state.set_name(mend.name)
            self._bar.name.setText(mend.name)
        if mend.goes_to:
            self._go_to_field(mend.goes_to)
        if mend.page:
            self.app.show_page(mend.page)

    def _go_to_field(self, key: str) -> None:
        if key not in (*SIMPLE, *LENGTH) and self._mode.value() == "simple":
            self._on_mode("advanced")
        QCoreApplication.sendPostedEvents()  # a card that was just shown has its place by an event
        field = self._fields[key].widget
        self.show_in_view(field)
        field.setFocus(Qt.FocusReason.TabFocusReason)  # what was typed is selected

    def _on_start(self) -> None:
        typing = QApplication.focusWidget()
        if typing is not None and self.isAncestorOf(typing):
            typing.clearFocus()  # what is being typed counts, as it does where Start is clicked
        if not self._bar.start.isEnabled():
            return
        self.banner.clear()
        self._started_here = True
        accepted = (
            self._state.skipped_accepted or self._state.dropped_accepted
        )  # what wasn't blocks the start
        self.app.launcher.start(self._draft.config, self._state.name, accepted)
        self.app.show_page("monitor")

    def _on_launcher(self) -> None:
        self._bar.refresh()
        self._show_waiting()

    def _on_prepared(self, run: RunPrepared) -> None:
        self._started_here = False
        self._state.started()

    def _on_cancelled(self) -> None:
        if self._started_here:
            self._started_here = False
            self.app.show_page("train")

    def _on_failed(self, problem: Problem) -> None:
        """Where the start came from here; Home and the Monitor tell of their own."""
        if self._started_here:
            self._started_here = False
            self.show_error(f"{problem.message} {problem.hint}".strip())
            self.app.show_page("train")

    def _on_compare(self) -> None:
        why = self.app.sweep.why_not or self._state.waits_for
        if why:
            self.app.notices.say(f"{why[:1].upper()}{why[1:]}", "warn")
            return
        shape = self._state.shape()
        over = OVER if shape is None else offered(shape)
        question = CompareQuestion(self._mode, over, self._state.as_run().trains_all)
        question.asked.connect(self._on_compared)
        question.open()

    def _on_compared(self, over: str, seeds: int) -> None:
        shape = self._state.shape()
        if shape is not None:
            accepted = self._state.skipped_accepted or self._state.dropped_accepted
            self.app.sweep.start(self._state.as_run(), shape, over, seeds, accepted)
            self.app.show_page("runs")

    def _on_copy(self) -> None:
        command = self._state.command()

        def written() -> None:
            QGuiApplication.clipboard().setText(command)
            self.app.notices.say("Command copied")

        self._state.write_command_file(written)

    def _on_save_file(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save settings", f"{self._state.name}.toml", "Settings (*.toml)"
        )
        if name:
            self._state.save_file(Path(name), lambda: self.app.notices.say("Saved"))

    def _on_open_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open settings", "", "Settings (*.toml)")
        if name:
            self._state.open_file(Path(name))

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state = self._state
        self._compare.setText(_COMPARE_ADAPTERS if state.has_source else _COMPARE)
        self._place_fields(self._mode.value())
        self._choice.refresh()
        self._length.refresh()
        device, shape = device_and_room(self.app.engine)[0], state.shape()
        layers = shape.all_layers if shape else 0
        self._promise.show_promise(
            state.promise,
            device == "cuda",
            layers,
            state.history.promise_words(device),
            not_as_asked=state.not_as_asked,
            at_most=state.promises_at_most,
        )
        self._promise.show_largest(state.largest)
        self._show_difference()
        self._problems.show_problems(state.problems)
        self._show_waiting()
        self._show_problems_at_fields()
        self._refresh_advanced()
        self._command.show_command(state.command())
        self._bar.refresh()

    def _show_waiting(self) -> None:
        """The card says what the bar says, and what is counted meanwhile."""
        preparing = self.app.launcher.words
        holding = (preparing,) if preparing else self._state.held_up_by
        self._problems.show_waiting(holding, self._state.counts.words)

    def _refresh_advanced(self) -> None:
        if not self._advanced:
            return
        state, training, shape = self._state, self._draft.config.training, self._state.shape()
        if shape is not None:
            trained = state.trained_parameters()
            share = trained / shape.parameters * 100
            self._trained.setText(f"{trained / 1e6:,.1f} M trained, {share:.1f}{THIN}%")
        brought = f"{state.start_shape}, as the adapter has them" if state.start_shape else WHICH_LEARN
        self._adapter_note.setText(brought)
        rows, times = training.batch_size, training.gradient_accumulation
        self._batch.setText(f"{rows} × {times} = {rows * times:,} rows an update")
        recomputed = state.promise.recompute_layers if state.promise else 0
        self._fields["training.recompute"].show_planned(recomputed, shape.all_layers if shape else 0)
        self._show_prompts()

    def _show_problems_at_fields(self) -> None:
        words = {problem.key: problem.words for problem in self._state.problems if problem.blocks}
        for key, field in self._fields.items():
            field.show_problem(words.get(key, ""))
        self._length.show_problem(words.get("data.seq_len", "") or words.get("data.target_len", ""))

    def _show_prompts(self) -> None:
        own = self._draft.config.samples
        words = f"{len(own)} of your own" if own else "3 from the rows held out"
        self._prompts.setText(f"Sample prompts answered at each checkpoint: {words}")
        if self._edit_prompts.isChecked():
            self._state.suggest_prompts()
            self._samples.refresh()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._preset_label.setVisible(self.width() >= theme().px(NARROW_BELOW))
        self._bar.refresh()
