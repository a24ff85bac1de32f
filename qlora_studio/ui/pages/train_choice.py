"""What is trained on what: two tiles, each with how it stands and the way to another choice."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config.run_config import SAMPLE, ModelConfig
from qlora_studio.models.report import ModelReport
from qlora_studio.protocol.events import Problem
from qlora_studio.state.data_name import data_name
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.train import TrainState
from qlora_studio.ui.widgets import Card, Chip, SecondaryButton, Tile
from qlora_studio.ui.widgets.columns import Columns

QUANTIZATIONS = {"nf4": "NF4", "fp4": "FP4", "int8": "int8", "none": "16 bit"}


class ChoiceCard(Card):
    """change_model, change_data: the buttons that open the pages to choose on."""

    def __init__(self, draft: RunDraft, state: TrainState) -> None:
        super().__init__(name="train_choice")
        self._draft = draft
        self._state = state
        self._model = Tile("box", "Choose a model", "", name="train_model_path")
        self._model_chip = Chip("", "neutral", name="train_model_state")
        self.change_model = SecondaryButton("Change", small=True, name="train_change_model")
        self._data = Tile("database", "Choose data", "", name="train_data_path")
        self._data_chip = Chip("", "neutral", name="train_data_state")
        self.change_data = SecondaryButton("Change", small=True, name="train_change_data")
        tiles = Columns(most=2, least=300, gap=12, line_gap=8)
        for tile, chip, button in (
            (self._model, self._model_chip, self.change_model),
            (self._data, self._data_chip, self.change_data),
        ):
            tile.add(chip)
            tile.add(button)
            tiles.addWidget(tile)
        self.body.addLayout(tiles)

    def refresh(self) -> None:
        """After a choice, or after one was checked."""
        state, path = self._state, self._draft.value("model.path")
        name = "SmolLM2-135M-Instruct" if path == SAMPLE else Path(path).name
        if not _refused(self._model, self._model_chip, self.change_model, name, state.model_problem):
            self._show_model(name)
        data = self._draft.config.data
        name = "Sample: grade-school maths" if data.path == SAMPLE else data_name(data)
        if not _refused(self._data, self._data_chip, self.change_data, name, state.data_refused):
            self._show_data(name)
        self.change_model.setAccessibleName("Change the model")
        self.change_data.setAccessibleName("Change the data")

    def _show_model(self, name: str) -> None:
        report = self._state.model
        if report is None:
            self._model.set_words(name, self._state.model_words)
            self._model_chip.set("checking", "neutral", "hourglass")
            return
        self._model.set_words(name, _model_note(report, self._draft.config.model))
        if report.warnings:
            self._model_chip.set(f"{len(report.warnings)} to look at", "warn", "triangle-alert")
        else:
            self._model_chip.set("checked", "ok", "check")

    def _show_data(self, name: str) -> None:
        report, counts = self._state.data, self._state.counts
        if report is None:
            self._data.set_words(name, self._state.data_words or "…")
            self._data_chip.set("reading", "neutral", "hourglass")
            return
        tokens = f"{counts.counted.lengths.tokens:,} tokens" if counts.counted else counts.words or "…"
        sets = f"{len(report.parts):,} data sets · " if report.parts else ""
        self._data.set_words(name, f"{sets}{report.conversations:,} rows · {tokens}")
        findings = sum(finding.tone in ("bad", "warn") for finding in report.findings)
        if findings:
            self._data_chip.set(f"{findings} to look at", "warn", "triangle-alert")
        else:
            self._data_chip.set("read", "ok", "check")


def _refused(tile: Tile, chip: Chip, button: SecondaryButton, name: str, problem: Problem | None) -> bool:
    """The tile turns into the reason; False where there is none."""
    tile.set_tone("bad" if problem is not None else "")
    button.setText("Choose again" if problem is not None else "Change")
    if problem is None:
        return False
    tile.set_words(name, problem.message)
    chip.set("not usable", "bad", "circle-alert")
    return True


def _model_note(report: ModelReport, model: ModelConfig) -> str:
    millions = report.parameters / 1e6
    size = f"{millions / 1e3:.2f} B" if millions >= 1000 else f"{millions:.0f} M"
    twice = model.double_quant and model.quantization in ("nf4", "fp4")
    return f"{size} · {QUANTIZATIONS[model.quantization]}{', double quantized' if twice else ''}"
