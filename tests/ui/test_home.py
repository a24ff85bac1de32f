"""Home: the first run in one click, the newest run to go on with, and a machine that says what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QWidget

from qlora_studio.config import places
from qlora_studio.config.machine_check import Line
from qlora_studio.config.presets import sample_preset
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import RunRecord
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.state.app import AppState
from qlora_studio.ui.pages.home import HomePage
from qlora_studio.ui.pages.home_cards import DoctorCard, WelcomeCard
from tests.ui.person import click


@pytest.fixture
def app(qtbot):
    state = AppState()
    yield state
    state.engine.run = None
    state.close()


@pytest.fixture
def open_home(app, qtbot):
    def open_page():
        page = HomePage(app)
        qtbot.addWidget(page)
        page.resize(1200, 860)
        page.show()
        page.opened(None)
        qtbot.waitUntil(lambda: page._state.found is not None)
        return page

    return open_page


def test_before_the_first_run_home_offers_the_sample(open_home):
    page = open_home()
    assert page.findChild(QWidget, "home_welcome").isVisible()
    assert "300 sample questions" in _words(page, "home_welcome")
    assert not page.findChild(QWidget, "home_continue").isVisible()
    assert "No run yet" in _words(page, "home_recent_card")


def test_the_time_of_the_sample_is_said_only_once_it_was_measured(qtbot):
    card = WelcomeCard()
    qtbot.addWidget(card)
    card.show_words(300, None)
    assert "About" not in _texts(card)
    card.show_words(300, 118.0)
    assert "About 2" in _texts(card)


def test_one_click_starts_the_sample_and_opens_its_monitor(open_home, app, asked, qtbot, monkeypatch):
    started: list[tuple[object, str]] = []
    monkeypatch.setattr(app.launcher, "start", lambda config, name: started.append((config, name)))
    page = open_home()
    click(qtbot, page, "home_start_sample")
    assert started == [(sample_preset().config, "sample-run")]
    qtbot.waitUntil(lambda: bool(asked))
    assert asked == [("monitor", None)]


def test_the_settings_of_the_sample_can_be_seen_first(open_home, app, asked, qtbot):
    page = open_home()
    click(qtbot, page, "home_see_settings")
    assert app.draft.config == sample_preset().config
    assert asked == [("train", None)]


def test_while_a_run_is_made_ready_the_start_says_so(open_home, app, qtbot):
    page = open_home()
    app.launcher.words = "Unpacking the sample model, once"
    app.launcher.changed.emit()
    assert not page.findChild(QWidget, "home_start_sample").isEnabled()
    assert page.findChild(QLabel, "home_waiting").text() == "Unpacking the sample model, once"


def test_a_start_that_fails_says_why_on_home(open_home, app, asked, qtbot, monkeypatch):
    monkeypatch.setattr(app.launcher, "start", lambda config, name: None)
    page = open_home()
    click(qtbot, page, "home_start_sample")
    app.launcher.failed.emit(Problem("The disk is full.", "Free 1 GB."))
    assert page.banner.text() == "The disk is full. Free 1 GB."
    assert asked[-1] == ("home", None)


def test_the_newest_run_can_be_opened_and_chatted_with(open_home, asked, qtbot):
    _make_run("first", created=1.0, state="finished")
    newest = _make_run("second", created=2.0, state="finished")
    page = open_home()
    assert page.findChild(QLabel, "home_continue_name").full_text() == "second"
    click(qtbot, page, "home_open_run")
    click(qtbot, page, "home_chat_run")
    assert asked == [("monitor", newest), ("chat", newest)]


def test_a_run_that_was_interrupted_can_be_resumed(open_home, app, qtbot, monkeypatch):
    run = _make_run("cut", created=1.0, state="interrupted")
    resumed: list[tuple[Path, str]] = []
    monkeypatch.setattr(app.launcher, "resume", lambda *run: resumed.append(run))
    page = open_home()
    click(qtbot, page, "home_resume_run")
    assert resumed == [(run, "cut")]


def test_a_finished_run_has_nothing_to_resume(open_home):
    _make_run("done", created=1.0, state="finished")
    page = open_home()
    assert not page.findChild(QWidget, "home_resume_run").isVisible()


def test_after_the_sample_home_asks_for_ones_own_data(open_home):
    _make_run("sample-run", created=1.0, state="finished")
    assert open_home().findChild(QWidget, "home_own_data").isVisible()


def test_enter_opens_the_chosen_run(open_home, asked, qtbot):
    run = _make_run("one", created=1.0, state="stopped")
    table = open_home().findChild(QWidget, "home_recent")
    table.setCurrentIndex(table.model().index(0, 0))
    qtbot.keyClick(table, Qt.Key.Key_Return)
    assert asked == [("monitor", run)]


def test_a_broken_run_is_a_row_and_hides_no_other(open_home):  # R6
    _make_run("sound", created=1.0, state="finished")
    broken = places.runs_folder() / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    table = open_home().findChild(QWidget, "home_recent")
    assert {row.state for row in table.model().runs} == {"finished", "unreadable"}


def test_the_runs_of_home_keep_the_rules_of_a_table_model(open_home, qtmodeltester):
    _make_run("one", created=1.0, state="finished")
    model = open_home().findChild(QWidget, "home_recent").model()
    qtmodeltester.check(model, force_py=True)
    assert model.rowCount(QModelIndex()) == 1


def test_what_was_imported_stands_on_the_shelf(open_home, app, asked, qtbot):
    app.preferences.set("data", ["/data/support_replies.jsonl"])
    page = open_home()
    click(qtbot, page, "home_data_0")
    assert asked == [("data", Path("/data/support_replies.jsonl"))]


def test_what_the_machine_lacks_comes_with_the_command_that_mends_it(qtbot):
    card = DoctorCard()
    qtbot.addWidget(card)
    card.show_checks([Line(name="peft", tone="bad", words="is missing", mend="pip install 'peft>=0.21'")])
    card.show()
    click(qtbot, card, "home_doctor_0_copy")
    assert QGuiApplication.clipboard().text() == "pip install 'peft>=0.21'"


def _make_run(name, created, state):
    runs = places.runs_folder()
    runs.mkdir(parents=True, exist_ok=True)
    folder = create_run(runs, RunRecord(name=name, created=created, config=sample_preset().config))
    if state == "finished":
        (folder / "adapter").mkdir()
    adapter = "adapter" if state == "finished" else None
    write_state(folder, RunState(state=state, step=30, total_steps=40, updated=created, adapter=adapter))
    return folder


def _words(page, name):
    return _texts(page.findChild(QWidget, name))


def _texts(widget):
    return " ".join(label.text() for label in widget.findChildren(QLabel))
