"""An encoder-decoder in the real window: trained, paused, resumed, chatted with and exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QPlainTextEdit

from qlora_studio.config.places import runs_folder
from qlora_studio.runs.folder import open_run
from qlora_studio.state.app import AppState
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.window import load_pages
from tests.journey.person import Person
from tests.journey.test_window_journey import steps_on_the_chart
from tests.reader.whole_t5 import whole_t5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def app(home: Path, qtbot) -> Iterator[AppState]:
    state = AppState()
    yield state
    state.close()


@pytest.fixture
def shell(app: AppState, qtbot) -> Shell:
    load_pages()
    shell = Shell(app)
    qtbot.addWidget(shell, before_close_func=lambda _: app.engine.kill())
    shell.resize(1440, 900)
    shell.show()
    return shell


def test_a_t5_is_trained_paused_resumed_chatted_with_and_exported(
    app: AppState, shell: Shell, tmp_path: Path
) -> None:
    person = Person(shell)
    data = tmp_path / "pairs.jsonl"
    rows = [{"question": f"hello {i}?", "answer": f"answer {i}"} for i in range(40)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    app.draft.set_many(
        {
            "model.path": str(whole_t5(tmp_path / "tiny-flan-t5")),
            "model.compute_dtype": "float32",
            "data.path": str(data),
            "lora.r": 16,
            "training.steps": 60,
            "training.batch_size": 4,
            "training.gradient_accumulation": 1,
            "training.learning_rate": 1e-3,
            "checkpoints.every_steps": 20,
            "checkpoints.evaluate_every_steps": 20,
        }
    )
    shell.open_page("train")
    person.waits_until(lambda: "chat's last answer" in person.reads("train_source_and_target"), "its words")
    person.writes("train_data_seq_len", "64")
    person.writes("train_data_target_len", "32")
    person.writes("train_name", "pairs")

    person.clicks_on("train_start")
    person.waits_until(lambda: steps_on_the_chart(person) >= 1, "points on the chart")
    person.clicks_on("monitor_pause")
    person.waits_until(lambda: "Paused at step" in person.reads("banner"), "the word that it is paused")
    (run,) = runs_folder().iterdir()
    assert open_run(run).state.step < 60
    person.clicks_on("monitor_pause")
    person.waits_until(lambda: person.sees("monitor_chat") is not None, "the end")

    record = open_run(run).record
    assert (record.config.data.seq_len, record.config.data.target_len) == (64, 32)
    assert not record.config.data.packing
    assert open_run(run).state.state == "finished"

    person.clicks_on("monitor_chat")
    person.writes("chat_max_tokens", "12")
    message = person.waits_for("chat_input", QPlainTextEdit)
    person.waits_until(lambda: bool(message.toPlainText()), "a prompt that is typed already")
    message.setPlainText("hello 3?")
    person.clicks_on("chat_send")
    person.waits_until(
        lambda: all("tokens/s" in person.reads(f"chat_figures_0_{side}") for side in ("base", "tuned")),
        "both replies",
    )

    shell.open_page("export")
    person.clicks_on("export_kind_merged")
    person.writes("export_folder", str(tmp_path / "merged"))
    person.clicks_on("export_start")
    person.waits_until(lambda: "verified" in person.reads("export_verdict"), "the verdict")
    assert "of tokens agree" in person.reads("export_report")
    assert "AutoModelForSeq2SeqLM" in (tmp_path / "merged" / "README.md").read_text()
