"""The terminal's engine: what it said is known, in whatever order it is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qlora_studio.cli import children, training
from qlora_studio.cli.output import Told
from qlora_studio.config.presets import sample_preset
from qlora_studio.protocol.lines import COMMANDS, EVENTS
from tests.client.scripted_child import ScriptedChild

MAKING_THE_SAMPLE_MODEL = """
say("engine_ready", device="cpu", device_name="", memory_bytes=2, free_bytes=1, versions={})
for command in heard():
    say("sample_model_ready", id=command["id"], folder="/models/sample")
    break
"""


def test_the_first_word_is_known_although_another_answer_was_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("QLORA_STUDIO_CACHE", str(tmp_path))
    monkeypatch.setattr(
        children, "start_engine", lambda: ScriptedChild(MAKING_THE_SAMPLE_MODEL, COMMANDS, EVENTS)
    )

    with children.Engine() as engine:
        engine.make_sample_model()

        assert engine.ready.free_bytes == 1


def test_the_engine_gets_ready_while_the_reader_prepares_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    happened: list[str] = []

    class Reader:
        def __init__(self, told: Told) -> None: ...

        def __enter__(self) -> Reader:
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, *_: object, **__: object) -> str:
            happened.append("prepared")
            return "run"

    engine: Any = SimpleNamespace(
        need_model=lambda _: happened.append("sample model"),
        expect_training=lambda: happened.append("expects"),
        ready=SimpleNamespace(device="cuda", free_bytes=1, memory_bytes=2),
    )
    monkeypatch.setattr(training, "Reader", Reader)

    training.prepare_run(engine, Told(quiet=True), sample_preset().config, "", tmp_path, False)

    assert happened == ["sample model", "expects", "prepared"]
