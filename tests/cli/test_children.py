"""The terminal's engine: what it said is known, in whatever order it is asked for."""

from __future__ import annotations

import pytest

from qlora_studio.cli import children
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
