"""The settings of the run that is being put together: shared by Models, Data and Train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from qlora_studio.config.presets import Preset, presets
from qlora_studio.config.recipes import Recipe, recipes
from qlora_studio.config.run_config import ADAPTER, ALL_WEIGHTS, COMPARES_WITH_BASE, RunConfig
from qlora_studio.config.setting import Field, fields_of, problem_with, value_of
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError


class RunDraft(QObject):
    """One RunConfig that is always valid, with undo.

    changed: the config is another one, or what was refused is
    refused: (key, reason): a value could not stand; the config is as before
    """

    changed = Signal()
    refused = Signal(str, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.presets: list[Preset] = presets()
        self.recipes: list[Recipe] = recipes()
        self.preset: Preset | None = self.presets[0] if self.presets else None  # its values are the defaults
        self.fields: dict[str, Field] = {field.key: field for field in fields_of(RunConfig)}
        self.skipped_accepted: set[str] = set()  # SHA-256 of files whose skipped lines somebody has looked at
        self.dropped_accepted: set[tuple[str, int, int]] = set()  # the same of chats over these lengths
        self.refusals: dict[str, str] = {}  # key -> reason, of what stands in a field and can't in the config
        self._config = RunConfig()
        self._undo: list[RunConfig] = []
        self._redo: list[RunConfig] = []

    @property
    def config(self) -> RunConfig:
        """As it stands."""
        return self._config

    def value(self, key: str) -> Any:
        """`draft.value("lora.r")`."""
        return value_of(self._config, key)

    def with_value(self, key: str, value: Any) -> RunConfig:
        """As it would be; the draft itself stays."""
        return with_changes(self._config, _with_what_follows({key: value}))

    def set(self, key: str, value: Any) -> bool:
        """False where the value is refused; `refused` then says why."""
        problem = problem_with(self.fields[key], value) if key in self.fields else ""
        if problem:
            self.refuse(key, problem)
            return False
        if self.value(key) == value:
            self._forget_refusals((key,))
            return True
        return self.set_many({key: value})

    def refuse(self, key: str, reason: str) -> None:
        """What was typed can't stand: until that is mended no run may start with the value from before."""
        self.refusals[key] = reason
        self.refused.emit(key, reason)

    def set_many(self, changes: dict[str, Any]) -> bool:
        """Several keys in one undo step."""
        try:
            config = with_changes(self._config, _with_what_follows(changes))
        except StudioError as error:
            self._refuse_all(changes, str(error))
            return False
        if config == self._config:
            self._forget_refusals(changes)
            return True
        for key in changes:
            self.refusals.pop(key, None)
        self._become(config)
        return True

    def replace(self, config: RunConfig) -> None:
        """Another whole config, as from a preset, a file or an earlier run."""
        if config == self._config:
            self._forget_refusals(list(self.refusals))
            return
        self.refusals.clear()
        self._become(config)

    def _refuse_all(self, changes: dict[str, Any], reason: str) -> None:
        """Several that a program made stand in no field."""
        key = next(iter(changes))
        if len(changes) == 1 and key in self.fields:
            self.refuse(key, reason)
        else:
            self.refused.emit(key, reason)

    def _become(self, config: RunConfig) -> None:
        self._undo.append(self._config)
        self._redo.clear()
        self._config = config
        self.changed.emit()

    def _forget_refusals(self, keys: Iterable[str]) -> None:
        """The fields show again what the config holds."""
        if [key for key in keys if self.refusals.pop(key, None) is not None]:
            self.changed.emit()

    def use_preset(self, preset: Preset) -> None:
        """Everything from the preset but model, data, the adapter that is trained on, and prompts, which the
        person chose.
        """
        self.preset = preset
        kept = {key: self.value(key) for key in ("model.path", "lora.start_from")}
        kept |= {
            f"data.{name}": getattr(self._config.data, name)
            for name in ("path", "format", "encoding", "map", "mix", "recipe")
        }
        config = with_changes(preset.config, kept)
        if not config.samples:
            config = msgspec.structs.replace(config, samples=self._config.samples)
        self.replace(config)

    def reset(self, key: str) -> None:
        """Back to the value of the preset, or to the default."""
        self.set(key, self.default(key))

    def default(self, key: str) -> Any:
        """Of the preset where one was chosen."""
        return value_of(self.preset.config if self.preset else RunConfig(), key)

    def changed_keys(self) -> list[str]:
        """Those that differ from the preset or the default; model and data aside."""
        aside = ("model.path", "data.path", "data.format", "data.encoding")
        return [key for key in self.fields if key not in aside and self.value(key) != self.default(key)]

    def undo(self) -> bool:
        """One step back; False where there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """One step forward again; False where there is none."""
        return self._step(self._redo, self._undo)

    def _step(self, source: list[RunConfig], target: list[RunConfig]) -> bool:
        if not source:
            return False
        target.append(self._config)
        self.refusals.clear()
        self._config = source.pop()
        self.changed.emit()
        return True


def _with_what_follows(changes: dict[str, Any]) -> dict[str, Any]:
    """Where no file is held out any more, there is none to have an encoding. Weights that are to learn are no
    quantized ones, have no adapter, and leave no model that they could be compared with; whatever was chosen
    last counts.
    """
    follows: dict[str, Any] = {}
    if not isinstance(changes.get("data.validation", ""), str):
        follows["data.validation_encoding"] = "auto"
    if changes.get("training.finetuning") == ALL_WEIGHTS:
        follows |= {"model.quantization": "none", "lora.start_from": "", "lora.init": "default"}
    elif (
        changes.get("model.quantization", "none") != "none"
        or changes.get("training.method") in COMPARES_WITH_BASE
        or changes.get("lora.start_from")
    ):
        follows["training.finetuning"] = ADAPTER
    return follows | changes
