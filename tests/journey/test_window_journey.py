"""A person's first hour in the real window: real engine, real reader, the real sample model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QLabel, QPlainTextEdit

from qlora_studio.config.places import runs_folder
from qlora_studio.runs.checkpoints import newest_sound
from qlora_studio.runs.folder import open_run
from qlora_studio.state.app import AppState
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.window import load_pages
from tests.journey.person import Gaps, Person, percentile
from tests.short_sample import use_short_sample

# tests/benchmarks/window_stalls.py holds the bar of 100 ms on a machine that does nothing else. Here two
# engines and two test processes share two cores, and whoever waits for a core waits in the window too: of a
# hundred ticks one may come late, by no more than a quarter of a second. The window's own work, in seconds
# of the processor, is measured apart; neighbours can slow it down, not lengthen it much.
MOST_OWN_S = 0.15
MOST_OF_99_S = 0.1
MOST_S = 0.25

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def app(sample_home: Path, qtbot) -> Iterator[AppState]:
    use_short_sample()
    state = AppState()
    yield state
    state.close()


@pytest.fixture
def person(app: AppState, qtbot) -> Person:
    load_pages()  # as the command does, beside the window
    shell = Shell(app)
    qtbot.addWidget(shell, before_close_func=lambda _: app.engine.kill())
    shell.resize(1440, 900)
    shell.show()
    shell.open_page("home")
    with qtbot.waitSignal(shell.ahead.finished, timeout=60_000):
        shell.build_ahead()
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
    longest = f"{max(gaps.wall_s):.3f} s at the longest, {max(gaps.own_s):.3f} s of it own work"
    sys.stdout.write(f"\nthe window stood still for {longest}; 99 % of the ticks within {of_99:.3f} s\n")
    assert max(gaps.own_s) < MOST_OWN_S, longest
    assert of_99 < MOST_OF_99_S, longest
    assert max(gaps.wall_s) < MOST_S, longest
    a_reply_can_be_stopped(person)


def test_ones_own_file_is_imported_trained_on_paused_stopped_and_resumed(  # R4
    person: Person, sums: Path
) -> None:
    person.clicks_on("home_import_data")
    person.picks_file("home_pick_data", sums)
    person.waits_until(lambda: person.reads("data_imported").startswith("48"), "the rows to be counted")
    person.clicks_on("data_use")

    person.clicks_on("train_mode_advanced")
    for name, value in (
        ("train_data_seq_len", "64"),
        ("train_lora_r", "4"),
        ("train_training_steps", "12"),
        ("train_training_batch_size", "1"),
        ("train_training_gradient_accumulation", "1"),
        ("train_training_learning_rate", "1e-3"),
        ("train_checkpoints_evaluate_every_steps", "0"),
    ):
        person.writes(name, value)
    person.writes("train_name", "sums")
    person.clicks_on("train_start")

    person.waits_until(lambda: steps_on_the_chart(person) >= 1, "points on the chart")
    person.clicks_on("monitor_pause")
    person.waits_until(lambda: "Paused at step" in person.reads("banner"), "the word that it is paused")
    (run,) = runs_folder().iterdir()
    paused_at = saved_at(run)

    person.clicks_on("monitor_pause")  # where it stood, Resume stands
    person.waits_until(lambda: steps_on_the_chart(person) > paused_at, "more points on the chart")
    person.clicks_on("monitor_stop")
    person.clicks_on("monitor_stop_popover_yes")
    person.waits_until(lambda: "Stopped at step" in person.reads("banner"), "the word that it is saved")
    assert paused_at < saved_at(run) < 12

    person.clicks_on("nav_home")
    person.clicks_on("home_resume_run")
    person.waits_until(lambda: steps_on_the_chart(person) == 12, "the run to go on to its end")
    person.waits_until(lambda: person.sees("monitor_chat") is not None, "the word that it is done")
    assert open_run(run).record.config.lora.r == 4
    assert open_run(run).adapter is not None


def saved_at(run: Path) -> int:
    """The step it stands at, of which there is a sound checkpoint."""
    newest = newest_sound(run)
    assert newest is not None
    assert newest.step == open_run(run).state.step
    return newest.step


def a_reply_can_be_stopped(person: Person) -> None:
    """In a new chat, while it is being written."""
    person.clicks_on("chat_new")
    person.writes("chat_max_tokens", "500")
    message = person.waits_for("chat_input", QPlainTextEdit)
    message.setPlainText("Count from one to one thousand.")
    person.clicks_on("chat_send")
    person.waits_until(lambda: "tokens" in person.reads("chat_figures_0_base"), "the first words")
    person.clicks_on("chat_stop")
    person.waits_until(lambda: "stopped" in person.reads("chat_figures_0_base"), "the end of the reply")
    assert person.waits_for("chat_send").isVisible()
