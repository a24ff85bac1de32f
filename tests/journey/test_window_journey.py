"""A person's first hour in the real window: real engine, real reader, the real sample model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QLabel, QPlainTextEdit

from qlora_studio.config.places import runs_folder, settings_folder
from qlora_studio.runs.checkpoints import newest_sound
from qlora_studio.runs.folder import open_run
from qlora_studio.state.app import AppState
from qlora_studio.ui.shell import Shell
from tests.journey.person import Gaps, Person, percentile

# A preset of one's own takes the place of the bundled one, whose 40 updates of 512 tokens take minutes.
SHORT_SAMPLE = """
name = "Sample run"
[model]
path = "sample"
[data]
path = "sample"
seq_len = 128
validation = 0.02
[lora]
r = 4
[training]
steps = 4
batch_size = 1
gradient_accumulation = 1
learning_rate = 1e-3
[checkpoints]
evaluate_every_steps = 0
"""

# The strict bar of 100 ms is for a machine that does nothing else. Here two engines and two test processes
# share two cores, and whoever waits for a core waits in the window too. What is asked of every machine: of a
# hundred ticks at most one comes late, and the longest piece of own work is the first visit of a page.
MOST_OWN_S = 0.5
MOST_OF_99_S = 0.2
MOST_S = 2.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def app(sample_home: Path, qtbot) -> Iterator[AppState]:
    preset = settings_folder() / "presets" / "sample.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text(SHORT_SAMPLE, "utf-8")
    state = AppState()
    yield state
    state.close()


@pytest.fixture
def person(app: AppState, qtbot) -> Person:
    shell = Shell(app)
    qtbot.addWidget(shell, before_close_func=lambda _: app.engine.kill())
    shell.resize(1440, 900)
    shell.show()
    shell.open_page("home")
    return Person(shell)


def steps_on_the_chart(person: Person) -> int:
    """As a screen reader tells it."""
    chart = person.sees("monitor_loss")
    found = re.match(r"([\d,]+) steps?", chart.accessibleDescription() if chart else "")
    return int(found[1].replace(",", "")) if found else 0


class Watched:
    """What stood in some labels, one after the other: text that streams is there many times."""

    def __init__(self, person: Person, *names: str) -> None:
        self._person = person
        self.seen: dict[str, list[str]] = {name: [] for name in names}
        self._timer = QTimer(interval=20)
        self._timer.timeout.connect(self._look)
        self._timer.start()

    def _look(self) -> None:
        for name, texts in self.seen.items():
            label = self._person.sees(name, QLabel)
            text = label.text().removesuffix(" ▌") if label else ""
            if text and text not in texts[-1:]:
                texts.append(text)


def both_replies(person: Person) -> dict[str, list[str]]:
    """Waits for them, and tells how they grew."""
    watched = Watched(person, "chat_text_0_base", "chat_text_0_tuned")
    person.waits_until(
        lambda: all("tokens/s" in person.reads(f"chat_figures_0_{side}") for side in ("base", "tuned")),
        "both replies",
    )
    return watched.seen


def test_five_clicks_lead_from_the_launch_to_replies_of_base_and_tuned_model(
    person: Person,
) -> None:
    person.waits_for("home_start_sample")
    gaps = Gaps()

    person.clicks_on("home_start_sample")
    person.waits_until(lambda: steps_on_the_chart(person) == 4, "points on the chart")
    person.waits_until(lambda: "Your first adapter is ready" in person.reads("banner"), "the end")
    person.clicks_on("monitor_chat")
    person.writes("chat_max_tokens", "24")  # short replies, for the test's sake; no click
    message = person.waits_for("chat_input", QPlainTextEdit)
    person.waits_until(lambda: bool(message.toPlainText()), "a prompt that is typed already")
    person.clicks_on("chat_send")
    replies = both_replies(person)

    gaps.stop()
    assert person.clicks <= 5
    for texts in replies.values():
        assert len(texts) > 2
        assert texts[-1].startswith(texts[0])
    of_99 = percentile(gaps.wall_s, 0.99)
    assert max(gaps.own_s) < MOST_OWN_S
    assert of_99 < MOST_OF_99_S
    assert max(gaps.wall_s) < MOST_S


def test_a_run_is_paused_and_resumed_as_if_nothing_had_happened(person: Person) -> None:  # R4
    person.clicks_on("home_start_sample")
    person.waits_until(lambda: steps_on_the_chart(person) >= 1, "points on the chart")
    person.clicks_on("monitor_pause")
    person.waits_until(lambda: "Paused at step" in person.reads("banner"), "the word that it is paused")
    (run,) = runs_folder().iterdir()
    newest = newest_sound(run)
    assert newest is not None
    assert newest.step == open_run(run).state.step

    person.clicks_on("monitor_resume")
    person.waits_until(lambda: "Your first adapter is ready" in person.reads("banner"), "the end")
    assert steps_on_the_chart(person) == 4  # each once, however often it was interrupted
    assert open_run(run).adapter is not None


def test_a_reply_can_be_stopped_while_it_is_written(person: Person) -> None:
    person.clicks_on("nav_chat")
    message = person.waits_for("chat_input", QPlainTextEdit)
    message.setPlainText("Count from one to one thousand.")
    person.clicks_on("chat_send")
    person.waits_until(lambda: "tokens" in person.reads("chat_figures_0_base"), "the first words")

    person.clicks_on("chat_stop")
    person.waits_until(lambda: "stopped" in person.reads("chat_figures_0_base"), "the end of the reply")

    person.clicks_on("chat_new")
    assert person.waits_for("chat_send").isVisible()
