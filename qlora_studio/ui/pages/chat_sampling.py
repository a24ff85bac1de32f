"""How the next token is chosen: the panel beside a chat."""

from __future__ import annotations

from functools import partial

import msgspec
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.protocol.commands import Sampling
from qlora_studio.state.chat import ChatState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ChoiceBox, PlainLabel, Slider, TypedNumber, set_property
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.fields import TextBox
from qlora_studio.ui.widgets.text_size import at_text_size

PRESETS = {
    "balanced": ("Balanced", Sampling()),
    "precise": ("Precise", Sampling(temperature=0.2, top_p=0.9)),
    "lively": ("Lively", Sampling(temperature=1.0, top_p=0.95, top_k=100)),
}
OWN = "own"
NO_EFFECT = "Temperature, top-p, top-k, min-p and seed have no effect"
MIN_P_TIP = "Leaves out what is less likely than this share of the likeliest token. 0: nothing"
STOPS_TIP = r"A reply ends before the first of these. A comma stands between them, \n is the end of a line."
WIDTHS = {
    "chat_top_k": 92,
    "chat_min_p": 84,
    "chat_max_tokens": 110,
    "chat_seed": 156,
    "chat_stop_words": 156,
}  # px at 100 %: for the longest number


class SamplingCard(Card):
    """Writes `state.sampling`; every change counts from the next reply on."""

    def __init__(self, state: ChatState) -> None:
        super().__init__("Sampling", name="chat_sampling")
        self._state = state
        self._preset = ChoiceBox(
            [*((key, words) for key, (words, _) in PRESETS.items()), (OWN, "Own")],
            name="chat_preset",
            label="Sampling preset",
        )
        self.add_to_head(self._preset)
        self._sliders = [
            HundredthsSlider("temperature", "Temperature", 1, 200),
            HundredthsSlider("top_p", "Top-p", 1, 100),
            HundredthsSlider("repeat_penalty", "Repeat penalty", 100, 200),
        ]
        self._numbers = {
            "top_k": TypedNumber(0, 1000, 40, name="chat_top_k", label="Top-k"),
            "max_tokens": TypedNumber(1, 32_768, 512, name="chat_max_tokens", label="Longest reply"),
            "seed": TypedNumber(0, 2**31 - 1, 0, name="chat_seed", label="Seed"),
        }
        self._min_p = TypedNumber(0.0, 1.0, 0.0, name="chat_min_p", label="Min-p", step=0.01)
        self._min_p.setToolTip(MIN_P_TIP)
        self._greedy = QCheckBox("Greedy, always the likeliest token")
        self._greedy.setObjectName("chat_greedy")
        self._greedy.setAccessibleName("Greedy")
        self._same_seed = QCheckBox("Same seed for all replies")
        self._same_seed.setObjectName("chat_same_seed")
        self._same_seed.setAccessibleName("Same seed for all replies")
        self._stops = TextBox(
            ", ".join(map(_typed, state.stop_words)),
            name="chat_stop_words",
            label="Stop words",
            placeholder="None",
        )
        self._stops.setToolTip(STOPS_TIP)
        self._note = PlainLabel(f"{NO_EFFECT}.", "note", wrap=True)
        self._refusal = PlainLabel("", "note", wrap=True, name="chat_sampling_problem")
        self._refusal.set_tone("bad")
        self._refused: dict[str, str] = {}  # by the name of the setting: why what was typed can't stand
        self._build()
        self._bind()
        self._show()

    def _build(self) -> None:
        self.body.setSpacing(theme().px(6))  # so that the message box is in sight at 1440 x 900
        for slider in self._sliders:
            self.body.addWidget(slider)
        for box in self._numbers.values():
            row = QHBoxLayout()
            for field in (box, self._min_p) if box is self._numbers["top_k"] else (box,):
                label = PlainLabel(field.accessibleName(), "label")
                label.setBuddy(field)
                at_text_size(field, field.setFixedWidth, WIDTHS[field.objectName()])
                row.addWidget(label, 1)
                row.addWidget(field)
            self.body.addLayout(row)
        row = QHBoxLayout()
        label = PlainLabel("Stop words", "label")
        label.setBuddy(self._stops)
        at_text_size(self._stops, self._stops.setFixedWidth, WIDTHS["chat_stop_words"])
        row.addWidget(label, 1)
        row.addWidget(self._stops)
        self.body.addLayout(row)
        for widget in (self._refusal, self._same_seed, self._greedy, self._note):
            self.body.addWidget(widget)

    def _bind(self) -> None:
        self._preset.chosen.connect(self._on_preset)
        for slider in self._sliders:
            slider.bar.valueChanged.connect(self._on_changed)
        for key, box in self._fields().items():
            box.entered.connect(partial(self._on_entered, key))
            box.unreadable.connect(partial(self._refuse, key))
        self._greedy.toggled.connect(self._on_changed)
        self._same_seed.toggled.connect(self._on_same_seed)
        self._stops.textChanged.connect(self._on_stops)

    def _on_preset(self, key: str) -> None:
        if key in PRESETS:
            kept = {name: getattr(self._state.sampling, name) for name in ("seed", "max_tokens")}
            self._state.sampling = msgspec.structs.replace(PRESETS[key][1], **kept)
            self._show()

    def _fields(self) -> dict[str, TypedNumber]:
        return {**self._numbers, "min_p": self._min_p}

    def _on_entered(self, key: str, number: float) -> None:
        box = self._fields()[key]
        low, high = box.property("minimum"), box.property("maximum")
        if low <= number <= high:
            self._refuse(key, "")
            self._on_changed()
        else:
            self._refuse(key, f"{box.accessibleName()} must be {low:,} to {high:,}.")

    def _refuse(self, key: str, why: str) -> None:
        """What was typed stays as it is; replies are drawn with the number before it."""
        box = self._fields()[key]
        self._refused[key] = f"{why} {box.value():,} counts until then." if why else ""
        set_property(box, "problem", bool(why))
        said = " ".join(filter(None, self._refused.values()))
        self._refusal.setText(said)
        self._refusal.setVisible(bool(said))

    def _on_changed(self) -> None:
        values: dict[str, float | int | bool] = {slider.key: slider.value() for slider in self._sliders}
        values |= {key: box.value() for key, box in self._numbers.items()}
        values["min_p"] = float(self._min_p.value())
        self._state.sampling = Sampling(greedy=self._greedy.isChecked(), **values)  # type: ignore[arg-type]
        self._mark()

    def _on_stops(self, typed: str) -> None:
        words = (word.strip().replace(r"\n", "\n") for word in typed.split(","))
        self._state.stop_words = tuple(dict.fromkeys(word for word in words if word))

    def _on_same_seed(self, same: bool) -> None:
        self._state.same_seed = same

    def _show(self) -> None:
        sampling = self._state.sampling
        self._same_seed.setChecked(self._state.same_seed)
        for slider in self._sliders:
            slider.set_value(getattr(sampling, slider.key))
        for key, box in self._fields().items():
            box.setValue(getattr(sampling, key))
            self._refuse(key, "")
        self._greedy.blockSignals(True)
        self._greedy.setChecked(sampling.greedy)
        self._greedy.blockSignals(False)
        self._mark()

    def _mark(self) -> None:
        """Which preset this is; what greedy leaves without effect is switched off, and said."""
        sampling = self._state.sampling
        kept = {"seed": 0, "max_tokens": 512}
        plain = msgspec.structs.replace(sampling, **kept)
        named = next((key for key, (_, preset) in PRESETS.items() if preset == plain), OWN)
        self._preset.set_value(named)
        numbers = (self._numbers["top_k"], self._min_p, self._numbers["seed"])
        drawn = (*self._sliders[:2], *numbers, self._same_seed)
        for widget in drawn:
            allow(widget, NO_EFFECT if sampling.greedy else "")
        self._note.setVisible(sampling.greedy)


def _typed(word: str) -> str:
    return word.replace("\n", r"\n")


class HundredthsSlider(QWidget):
    """A slider with its name and value above it."""

    def __init__(self, key: str, label: str, low: int, high: int) -> None:
        """low, high: in hundredths."""
        super().__init__()
        self.key = key
        self.bar = Slider(low, high, name=f"chat_{key}", label=label)
        self.bar.setSingleStep(5)
        self.bar.setPageStep(10)
        at_text_size(self.bar, self.bar.setMinimumHeight, 24)
        self._shown = PlainLabel("", "strong")
        head = QHBoxLayout()
        head.addWidget(PlainLabel(label, "label"), 1)
        head.addWidget(self._shown)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(2))
        layout.addLayout(head)
        layout.addWidget(self.bar)
        self.bar.valueChanged.connect(self._say)
        self._say()

    def value(self) -> float:
        """As the engine takes it."""
        return self.bar.value() / 100

    def set_value(self, value: float) -> None:
        """Shows it without telling it back."""
        self.bar.blockSignals(True)
        self.bar.setValue(round(value * 100))
        self.bar.blockSignals(False)
        self._say()

    def _say(self) -> None:
        self._shown.setText(f"{self.value():.2f}")
