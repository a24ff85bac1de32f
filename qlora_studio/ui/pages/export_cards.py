"""The cards of the Export page: which run, as what, where to, how it is checked, and what came of it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QGridLayout, QHBoxLayout, QRadioButton

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.models.gguf_support import F16, Q4_K_M, Q5_K_M, Q6_K, Q8_0
from qlora_studio.models.merged import NF4
from qlora_studio.protocol.events import ExportFinished, Verification
from qlora_studio.runs.folder import Run
from qlora_studio.state.export import ADAPTER, GGUF, MERGED, ExportState, Stage
from qlora_studio.state.export_source import Source
from qlora_studio.ui import figures
from qlora_studio.ui.figures import in_gb
from qlora_studio.ui.run_words import state_word
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    ChoiceBox,
    ElidedLabel,
    Meter,
    NumberBox,
    PlainLabel,
    SecondaryButton,
    TextBox,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

KINDS = {
    ADAPTER: ("Adapter", "What was learned alone: for peft and for this application, beside its base model."),
    MERGED: (
        "Merged model",
        "The whole model as a folder of safetensors: for any program that reads such folders.",
    ),
    GGUF: (
        "GGUF file",
        "The whole model in one file, tokenizer and chat template inside: for llama.cpp and the like.",
    ),
}
QUANTS = [
    (Q8_0, "8 bit (Q8_0): half the size, close to the original"),
    (F16, "16 bit (F16): the closest"),
    (Q6_K, "6 bit (Q6_K): two fifths of the size"),
    (Q5_K_M, "5 bit (Q5_K_M): a third, further from the original"),
    (Q4_K_M, "4 bit (Q4_K_M): the smallest, the furthest"),
]
MERGED_QUANTS = [
    ("", "16 bit: the closest"),
    (NF4, "4 bit (NF4): much smaller, needs bitsandbytes"),
]
WHILE_BUSY = "What is written is set until this export ends"
_PROMPTS_SHOWN = 4


class SourceCard(Card):
    """chosen: the folder of the run to export. at_step: the checkpoint, or None for the finished adapter."""

    chosen = Signal(object)
    at_step = Signal(object)

    def __init__(self) -> None:
        super().__init__("Run", name="export_source")
        self._run = ChoiceBox([], name="export_run", label="Run to export")
        self._state = Chip("", name="export_run_state")
        self._note = PlainLabel("", "note", wrap=True)
        self._at = PlainLabel("Checkpoint", "label")
        self._checkpoint = ChoiceBox([], name="export_checkpoint", label="Checkpoint to export")
        self._at.setBuddy(self._checkpoint)
        row = QHBoxLayout()
        row.setSpacing(theme().px(10))
        row.addWidget(self._run, 1)
        row.addWidget(self._state)
        below = QHBoxLayout()
        below.setSpacing(theme().px(10))
        below.addWidget(self._at)
        below.addWidget(self._checkpoint)
        below.addStretch()
        self.body.addLayout(row)
        self.body.addLayout(below)
        self.body.addWidget(self._note)
        self._checkpoint.chosen.connect(lambda step: self.at_step.emit(int(step) if step else None))
        self._run.chosen.connect(lambda folder: self.chosen.emit(Path(folder)))

    def refresh(self, state: ExportState) -> None:
        """After the runs, or the chosen one, are others."""
        choices = [(str(source.folder), source.run.name) for source in state.sources or ()]
        self._run.set_choices(choices)
        allow(self._run, WHILE_BUSY if state.busy else "")
        if state.source is not None:
            self._run.set_value(str(state.source.folder))
            word = state_word(state.source.run.state.state)
            self._state.set(word.word, word.tone, word.icon_name)
            self._note.setText(_about(state.source.run))
            self._checkpoint.set_choices(_checkpoints(state.source))
            self._checkpoint.set_value("" if state.checkpoint is None else str(state.checkpoint))
        for widget in (self._at, self._checkpoint):
            widget.setVisible(state.source is not None and bool(state.source.checkpoints))
        allow(self._checkpoint, WHILE_BUSY if state.busy else "")
        self._state.setVisible(state.source is not None)


class KindCard(Card):
    """The forms a run can be written in, each with its size. chosen: adapter | merged | gguf."""

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__("Written as", name="export_kind")
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QRadioButton] = {}
        self._sizes: dict[str, PlainLabel] = {}
        self._notes: dict[str, PlainLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(theme().px(12))
        grid.setVerticalSpacing(theme().px(2))
        grid.setColumnStretch(0, 1)
        for row, (kind, (words, note)) in enumerate(KINDS.items()):
            button = QRadioButton(words)
            button.setObjectName(f"export_kind_{kind}")
            button.setAccessibleName(words)
            button.setAccessibleDescription(note)
            button.clicked.connect(lambda _=False, kind=kind: self.chosen.emit(kind))
            size = PlainLabel("", "strong", name=f"export_size_{kind}")
            about = PlainLabel(note, "note", wrap=True)
            about.setContentsMargins(theme().px(26), 0, 0, theme().px(6))
            self._notes[kind] = about
            grid.addWidget(button, 3 * row, 0)
            grid.addWidget(size, 3 * row, 1, Qt.AlignmentFlag.AlignRight)
            grid.addWidget(about, 3 * row + 1, 0, 1, 2)
            self._group.addButton(button)
            self._buttons[kind], self._sizes[kind] = button, size
        self.quant = ChoiceBox(QUANTS, name="export_quant", label="Numbers in the GGUF file")
        self.merged_quant = ChoiceBox(
            MERGED_QUANTS, name="export_merged_quant", label="Numbers in the merged model"
        )
        self._no_gguf = PlainLabel("", "note", wrap=True, name="export_no_gguf")
        rows = list(KINDS)
        last = 3 * len(rows)
        for widget, row in (
            (self.merged_quant, 3 * rows.index(MERGED) + 2),
            (self.quant, last - 1),
            (self._no_gguf, last),
        ):
            inset = QHBoxLayout()
            inset.setContentsMargins(theme().px(26), 0, 0, theme().px(6))
            inset.addWidget(widget, 1)
            grid.addLayout(inset, row, 0, 1, 2)
        self.body.addLayout(grid)

    def refresh(self, state: ExportState) -> None:
        """After the run or the kind is another one."""
        for kind, button in self._buttons.items():
            button.setChecked(kind == state.kind)
            problem = {ADAPTER: state.adapter_problem, GGUF: state.gguf_problem}.get(kind, "")
            allow(button, WHILE_BUSY if state.busy else problem if kind != state.kind else "")
            needed = state.needed_bytes(kind)
            about = "" if kind == ADAPTER else "about "
            unknown = "" if kind == ADAPTER and problem else "…"
            self._sizes[kind].setText(f"{about}{in_gb(needed)}" if needed is not None else unknown)
        self._notes[ADAPTER].setText(state.adapter_problem or KINDS[ADAPTER][1])
        self.quant.setVisible(state.kind == GGUF)
        self.quant.set_value(state.quant)
        allow(self.quant, WHILE_BUSY if state.busy else "")
        self.merged_quant.setVisible(state.kind == MERGED)
        self.merged_quant.set_value(state.merged_quant)
        allow(self.merged_quant, WHILE_BUSY if state.busy else "")
        self._no_gguf.setText(state.gguf_problem)
        self._no_gguf.setVisible(bool(state.gguf_problem))


class WhereCard(Card):
    """The new folder, and whether there is room for it."""

    def __init__(self) -> None:
        super().__init__("Folder", "a new one is made", name="export_where")
        self.folder = TextBox(name="export_folder", label="Folder to write")
        self.choose = SecondaryButton("Choose…", "folder-open", name="export_choose_folder")
        self._room = Chip("", "neutral", "hard-drive", name="export_room")
        self._problem = PlainLabel("", "note", wrap=True, name="export_folder_problem")
        self._problem.set_tone("bad")
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addWidget(self.folder, 1)
        row.addWidget(self.choose)
        self.body.addLayout(row)
        self.body.addWidget(self._room)
        self.body.addWidget(self._problem)

    def refresh(self, state: ExportState) -> None:
        """After the disk was looked at."""
        if self.folder.text() != state.place.folder:
            self.folder.setText(state.place.folder)
        for widget in (self.folder, self.choose):
            allow(widget, WHILE_BUSY if state.busy else "")
        needed, free = state.needed_bytes(state.kind), state.place.free_bytes
        known = needed is not None and free is not None
        self._room.setVisible(known)
        if needed is not None and free is not None:
            tone = "bad" if needed > free else "neutral"
            icon = "circle-alert" if needed > free else "hard-drive"
            self._room.set(f"Needs {in_gb(needed)}, {in_gb(free)} free", tone, icon)
        self._problem.setText(state.place.problem)
        self._problem.setVisible(bool(state.place.problem))


class ProgressCard(Card):
    """What goes on, how far it is, how long it will take."""

    def __init__(self) -> None:
        super().__init__(name="export_progress")
        self._words = PlainLabel("", "strong", wrap=True)
        self._bar = Meter(name="export_bar", label="Progress of the export")
        self._note = PlainLabel("", "note")
        for widget in (self._words, self._bar, self._note):
            self.body.addWidget(widget)

    def refresh(self, state: ExportState) -> None:
        """After each progress."""
        self.setVisible(state.busy)
        self._words.setText(state.words)
        known = state.stage is Stage.WRITING and state.total > 0
        self._bar.setVisible(known)
        self._note.setVisible(known)
        if known:
            self._bar.set_share(state.done / state.total)
            left = state.seconds_left
            about = f" · about {figures.duration(left)} left" if left is not None else ""
            self._note.setText(f"{in_gb(state.done)} of {in_gb(state.total)}{about}")


class CheckCard(Card):
    """How the written file is compared with the adapter."""

    def __init__(self) -> None:
        super().__init__("Check", "after writing", name="export_check")
        about = "The file is opened again and answers the same prompts as what was trained, greedily."
        self.prompts = NumberBox(1, 100, 8, name="export_prompts", label="Prompts")
        # 95: what the engine itself asks for; a person may only ask for more
        self.limit = NumberBox(95, 100, 95, name="export_limit", label="Tokens that must agree", unit="%")
        self._list = PlainLabel("", "note", wrap=True, name="export_prompt_list")
        self.body.addWidget(PlainLabel(about, "muted", wrap=True))
        for box in (self.prompts, self.limit):
            label = PlainLabel(box.accessibleName(), "label")
            label.setBuddy(box)
            at_text_size(box, box.setFixedWidth, 110)
            row = QHBoxLayout()
            row.addWidget(label, 1)
            row.addWidget(box)
            self.body.addLayout(row)
        self.body.addWidget(self._list)

    def refresh(self, state: ExportState) -> None:
        """After the run, or the number of prompts, is another one."""
        with QSignalBlocker(self.prompts):
            self.prompts.setValue(state.prompt_count)
        allow(self.prompts, WHILE_BUSY if state.busy else "")
        prompts = state.prompts
        lines = [
            f"• {prompt if len(prompt) <= 90 else prompt[:88] + '…'}" for prompt in prompts[:_PROMPTS_SHOWN]
        ]
        more = len(prompts) - _PROMPTS_SHOWN
        self._list.setText("\n".join([*lines, *([f"and {more} more"] if more > 0 else [])]))


class ReportCard(Card):
    """What the check found, in figures; the tick only where the file was read again and agrees."""

    def __init__(self) -> None:
        super().__init__("Result", name="export_report")
        self._verdict = Chip("", name="export_verdict")
        self.add_to_head(self._verdict)
        self._words = PlainLabel("", wrap=True, name="export_verdict_words")
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(theme().px(12))
        self._grid.setVerticalSpacing(theme().px(6))
        self._grid.setColumnStretch(0, 1)
        self._cells: list[tuple[PlainLabel, PlainLabel]] = []
        self._difference = PlainLabel("", "note", wrap=True, name="export_first_difference")
        self._llama_cpp = PlainLabel("", "note", wrap=True, name="export_llama_cpp")
        self._base = PlainLabel("", "note", wrap=True, name="export_merge_base")
        self._folder = ElidedLabel("", "note", name="export_written_folder")
        self._files = PlainLabel("", "note", wrap=True, name="export_files")
        self.open_folder = SecondaryButton(
            "Open folder", "folder-open", small=True, name="export_open_folder"
        )
        self.body.addWidget(self._words)
        self.body.addLayout(self._grid)
        self._modelfile = PlainLabel("", "note", wrap=True, name="export_modelfile")
        for widget in (
            self._difference,
            self._llama_cpp,
            self._base,
            self._modelfile,
            self._folder,
            self._files,
        ):
            self.body.addWidget(widget)
        self.body.addWidget(self.open_folder, 0, Qt.AlignmentFlag.AlignLeft)

    def refresh(self, state: ExportState) -> None:
        """After an export ended, or the limit is another one."""
        finished = state.finished
        self.setVisible(finished is not None)
        if finished is None:
            return
        agreed = _percent(finished.verified.token_agreement)
        if state.verified:
            self._verdict.set("verified", "ok", "circle-check")
            self._words.setText(f"Verified, {agreed} of tokens agree.")
        else:
            self._verdict.set("differs", "warn", "triangle-alert")
            differs = f"Written, but it differs: {agreed} of the tokens agree with the trained model"
            few = finished.verified.token_agreement < state.limit
            wanted = f"; {_percent(state.limit)} were wanted." if few else "."
            self._words.setText(" ".join((differs + wanted, *finished.verified.problems)))
        self._show_figures(finished.verified)
        first = finished.verified.first_difference
        self._difference.setText(first.words if first else "")
        self._difference.setVisible(first is not None)
        self._llama_cpp.setText(_run_words(finished.verified))
        self._llama_cpp.setVisible(finished.verified.run is not None)
        self._base.setText(finished.verified.merge_base or "")
        self._base.setVisible(bool(finished.verified.merge_base))
        self._modelfile.setText(state.modelfile.notes if state.modelfile else "")
        self._modelfile.setVisible(state.modelfile is not None)
        self._folder.setText(finished.folder)
        self._files.setText(_files_in_words(finished))

    def _show_figures(self, result: Verification) -> None:
        lines = [
            ("Read again with", result.with_),
            ("Prompts", f"{result.prompts:,}"),
            ("Tokens that agree", _percent(result.token_agreement)),
            ("Largest drift of a log-probability", f"{result.max_logprob_drift:.4f}"),
        ]
        if result.mean_kl is not None:
            lines.append(("Mean KL, nats a token", f"{result.mean_kl:.5f}"))
        if result.same_replies is not None:
            lines.append(("Replies that are the same", f"{result.same_replies:,}"))
        while len(self._cells) < len(lines):
            cells = (PlainLabel("", "muted"), PlainLabel("", "strong"))
            cells[1].setAlignment(Qt.AlignmentFlag.AlignRight)
            for column, cell in enumerate(cells):
                self._grid.addWidget(cell, len(self._cells), column)
            self._cells.append(cells)
        for place, (name, value) in enumerate(self._cells):
            shown = place < len(lines)
            name.setVisible(shown)
            value.setVisible(shown)
            if shown:
                name.setText(lines[place][0])
                value.setText(lines[place][1])


def _about(run: Run) -> str:
    """Base model, how far it came, how well it did."""
    config, state = run.record.config, run.state
    base = run.record.model_name or (
        "sample" if config.model.path == SAMPLE else Path(config.model.path).name
    )
    learned = "all weights" if config.trains_all else f"rank {config.lora.r}"
    parts = [base, learned, f"step {state.step:,}"]
    if state.evaluation_loss is not None:
        parts.append(f"evaluation loss {figures.loss(state.evaluation_loss)}")
    return " · ".join(parts)


def _checkpoints(source: Source) -> list[tuple[str, str]]:
    """The adapter of the run's end first, then the newest."""
    best, ended = source.run.state.best_step, source.run.state.state
    steps: list[int | None] = [None, *sorted(source.checkpoints, reverse=True)]
    choices = []
    for step in steps:
        at = source.run.state.step if step is None else step
        words = f"step {at:,}{f', {ended}' if step is None else ''}"
        value = "" if step is None else str(step)
        choices.append((value, f"{words}, best evaluation" if at == best else words))
    return choices


def _run_words(result: Verification) -> str:
    """Of a GGUF file that llama.cpp ran; empty of others."""
    if (ran := result.run) is None:
        return ""
    same = f"{ran.same_replies:,} of {result.prompts:,} replies are the same"
    words = f"Run by {ran.with_}: {_percent(ran.token_agreement)} of the tokens agree, {same}."
    return f"{words} {ran.first_difference.words}" if ran.first_difference else words


def _files_in_words(finished: ExportFinished) -> str:
    names = ", ".join(finished.files[:12])
    more = len(finished.files) - 12
    return f"{in_gb(finished.bytes)}: {names}" + (f" and {more} more" if more > 0 else "")


def _percent(share: float) -> str:
    return f"{share * 100:.1f}{figures.THIN}%"
