"""The window: pages on demand, keys that work everywhere, the status line, and how it closes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLabel, QMenu, QPushButton, QWidget

from qlora_studio.memory.devices import CardReading
from qlora_studio.protocol import commands
from qlora_studio.protocol.events import RunStarted, StepFinished
from qlora_studio.runs.conversations import read_conversation
from qlora_studio.state.app import AppState
from qlora_studio.ui import figures
from qlora_studio.ui.page import Page
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.widgets import SearchBox
from tests.ui.example_runs import TRAINING, hear_steps, make_run, step_event
from tests.ui.person import click, words

NAMES = ("home", "models", "data", "train", "runs", "monitor", "chat", "export", "settings")


class _Engine:
    """Stands where the engine's thread is, and says nothing."""

    def __init__(self) -> None:
        self.said: list[commands.EngineCommand] = []
        self.hung_up = False

    def say(self, command: commands.EngineCommand) -> None:
        self.said.append(command)

    def hang_up(self) -> None:
        self.hung_up = True

    def wait(self, _: int = 0) -> bool:
        return True

    def deleteLater(self) -> None: ...

    def kill(self) -> None: ...


class _Shown(Page):
    def __init__(self, app: AppState, name: str) -> None:
        super().__init__(app, name, name.title())
        self.what: object = None
        self.search = SearchBox("Search", name=f"{name}_search")
        self.main.addWidget(self.search)

    def pieces(self) -> Iterator[None]:
        yield
        self.last = QLabel("the last piece")
        self.main.addWidget(self.last)

    def opened(self, what: object) -> None:
        self.what = what


@pytest.fixture
def app(qtbot, monkeypatch):
    state = AppState()
    monkeypatch.setattr(state.machine, "start", lambda: None)
    yield state
    state.engine.run = None
    state.engine._thread = None
    state.close()


@pytest.fixture
def built():
    return []


@pytest.fixture
def shell(app, built, qtbot):
    def factory(name):
        def build(state):
            built.append(name)
            return _Shown(state, name)

        return build

    window = Shell(app, {name: factory(name) for name in NAMES})
    qtbot.addWidget(window)
    window.open_page("home")
    window.show()
    return window


@pytest.fixture
def training(app):
    """A run that trains, step 2,251 of 3,410."""
    engine = _Engine()
    app.engine._thread = engine
    app.engine.run = Path("/runs/support-llama8b-r64")
    _hear(app, RunStarted(run="r", step=0, total_steps=3410, resumed=False, time=0.0))
    _hear(app, _step(2250))
    _hear(app, _step(2251))
    return engine


def test_pages_are_built_ahead_once_each_and_the_one_in_front_stays(shell, built, qtbot):
    with qtbot.waitSignal(shell.ahead.finished):
        shell.build_ahead()
    assert (sorted(built), shell.page().name) == (sorted(NAMES), "home")
    shell.open_page("data")
    assert sorted(built) == sorted(NAMES)


def test_a_page_asked_for_while_it_is_built_ahead_is_whole_when_it_opens(shell, built, qtbot):
    with qtbot.waitSignal(shell.ahead.finished):
        shell.build_ahead()
        qtbot.waitUntil(lambda: "models" in built)
        page = shell.open_page("models")
        assert page.last.text() == "the last piece"
    assert built.count("models") == 1
    assert shell.page() is page


def test_a_page_is_built_when_it_is_first_opened(shell, built, qtbot):
    assert built == ["home"]
    click(qtbot, shell, "nav_data")
    assert built == ["home"]
    qtbot.waitUntil(lambda: shell.page().name == "data")
    click(qtbot, shell, "nav_home")
    click(qtbot, shell, "nav_data")
    assert built == ["home", "data"]
    assert shell.page().name == "data"


def test_of_two_pages_asked_for_the_later_one_opens(shell, qtbot):
    with qtbot.waitSignal(shell.ahead.finished):
        shell.show_page("runs")
        shell.show_page("data", Path("/data/a.jsonl"))
    assert (shell.page().name, shell.page().what) == ("data", Path("/data/a.jsonl"))


def test_a_page_that_is_there_opens_at_once_though_another_is_being_built(shell, qtbot):
    with qtbot.waitSignal(shell.ahead.finished):
        shell.show_page("runs")
        shell.show_page("home")
    assert shell.page().name == "home"
    assert shell.findChild(QPushButton, "nav_home").isChecked()


@pytest.mark.parametrize(("key", "page"), [("1", "home"), ("4", "train"), ("7", "export"), (",", "settings")])
def test_control_and_a_key_open_a_page(shell, qtbot, key, page):
    qtbot.waitActive(shell)
    qtbot.keyClick(shell, key, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: shell.page().name == page)


def test_the_search_key_goes_to_the_search_of_the_page(shell, qtbot):
    shell.open_page("data")
    qtbot.keyClick(shell, "f", Qt.KeyboardModifier.ControlModifier)
    assert QApplication.focusWidget().objectName() == "data_search"


def test_escape_empties_the_search(shell, qtbot):
    page = shell.open_page("data")
    page.search.setText("battery")
    qtbot.keyClick(shell, Qt.Key.Key_Escape)
    assert page.search.text() == ""


def test_every_global_key_stands_in_the_menu_of_a_page(shell):
    menu = shell.page().menu
    menu.aboutToShow.emit()
    menu.aboutToShow.emit()
    keys = [action.shortcut().toString() for action in menu.actions() if action.shortcut().toString()]
    go_to = next(action.menu() for action in menu.actions() if action.menu())
    assert {"Ctrl+F", "F1", "F5", "Ctrl+Z", "Ctrl+Shift+Z", "Ctrl+Q"} <= set(keys)
    assert len(keys) == len(set(keys))
    assert "Ctrl+M" in {action.shortcut().toString() for action in go_to.actions()}


def test_a_page_can_ask_for_another_with_what_it_should_show(shell, app, qtbot):
    app.show_page("monitor", Path("/runs/a"))
    qtbot.waitUntil(lambda: shell.page().name == "monitor")
    assert shell.page().what == Path("/runs/a")
    assert shell.findChild(QPushButton, "nav_runs").isChecked()


@pytest.mark.parametrize(("width", "words"), [(1440, "Data"), (1024, "")])
def test_the_rail_shows_icons_alone_where_the_window_is_narrow(shell, width, words):
    shell.resize(width, 700)
    button = shell.findChild(QPushButton, "nav_data")
    assert button.text() == words
    assert button.accessibleName() == "Data"


def test_a_data_file_dropped_anywhere_opens_data(shell, tmp_path, qtbot):
    file = tmp_path / "chats.jsonl"
    file.write_text("{}\n")
    shell.open_dropped(file)
    qtbot.waitUntil(lambda: (shell.page().name, shell.page().what) == ("data", file))


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.zst", "data-00000-of-00001.arrow", "folder"])
def test_whatever_the_reader_takes_may_be_dropped(shell, tmp_path, name, qtbot):
    path = tmp_path / name
    path.write_bytes(b"") if "." in name else path.mkdir()
    shell.open_dropped(path)
    qtbot.waitUntil(lambda: (shell.page().name, shell.page().what) == ("data", path))


def test_a_folder_with_weights_dropped_anywhere_opens_models(shell, tmp_path, qtbot):
    (tmp_path / "model.safetensors").write_bytes(b"")
    shell.open_dropped(tmp_path)
    qtbot.waitUntil(lambda: (shell.page().name, shell.page().what) == ("models", tmp_path))


def test_anything_else_dropped_is_refused_in_words(shell, app, tmp_path):
    file = tmp_path / "<b>photo<b>.png"
    file.write_bytes(b"")
    shell.open_dropped(file)
    assert shell.page().name == "home"
    assert "no data file" in app.notices.last[-1].text


def test_the_run_chip_is_hidden_until_something_trains(shell, app, training):
    chip = shell.findChild(QPushButton, "run_chip")
    assert not chip.isHidden()
    assert chip.accessibleName() == "Training: support-llama8b-r64. Open it."
    app.engine.run = None
    app.engine.changed.emit()
    assert chip.isHidden()


def test_the_run_chip_says_how_long_and_how_good(shell, app, training, qtbot):
    texts = lambda: [label.text() for label in shell.findChild(QWidget, "run_chip").findChildren(QLabel)]  # noqa: E731
    qtbot.waitUntil(lambda: "loss 0.913" in texts())
    assert any("left" in text for text in texts())


def test_the_run_chip_and_the_monitor_say_the_same(filler, app, silent, home, qtbot):
    folder = make_run(home / "runs", TRAINING)
    app.engine.train(folder)
    page = filler.shell.open_page("monitor", folder)
    qtbot.waitUntil(lambda: not app.monitor.loading)
    silent.hear(RunStarted(run=str(folder), step=0, total_steps=400, resumed=False, time=0.0))
    hear_steps(silent, 1, 30)
    qtbot.waitUntil(lambda: app.monitor.figures.step == 30)
    said = f"loss {words(page, 'monitor_number_loss').split()[2]}"
    qtbot.waitUntil(lambda: said in words(filler.shell, "run_chip"), timeout=2000)
    late = msgspec.structs.replace(step_event(31, TRAINING), elapsed_s=1.6 * 30 + 900)  # it was evaluated
    silent.hear(late)
    qtbot.waitUntil(lambda: app.monitor.figures.step == 31)
    left = figures.duration(app.monitor.figures.seconds_left)
    qtbot.waitUntil(lambda: f"{left} left" in words(filler.shell, "run_chip"), timeout=2000)


def test_the_run_chip_shows_at_once_how_far_a_resumed_run_is(shell, app, training):
    _hear(app, RunStarted(run="r", step=341, total_steps=3410, resumed=True, time=0.0))
    assert f"10{figures.THIN}%" in words(shell, "run_chip")


def test_the_run_chip_opens_the_run_that_trains(shell, training, qtbot):
    click(qtbot, shell, "run_chip")
    qtbot.waitUntil(lambda: shell.page().name == "monitor")
    assert shell.page().what == Path("/runs/support-llama8b-r64")


def test_the_run_chip_has_the_runs_name_and_its_folder_as_a_tooltip(shell, app, training):
    app.engine.rename(Path("/runs/support-llama8b-r64"), "Support, second try")
    chip = shell.findChild(QPushButton, "run_chip")
    names = [label.text() for label in chip.findChildren(QLabel)]
    assert "Support, second try" in names and "support-llama8b-r64" not in names
    assert chip.toolTip() == "support-llama8b-r64"


def test_the_status_line_says_what_the_engine_does(shell, app, training):
    assert shell.findChild(QLabel, "status_engine").full_text() == "Training"


def test_the_status_line_and_the_chip_say_that_a_run_is_being_made_ready(shell, app, qtbot):
    app.launcher.name = "sample-run"
    app.launcher._now("Reading the data 120 of 300")
    status = shell.findChild(QLabel, "status_engine")
    assert status.full_text() == "Preparing sample-run: reading the data 120 of 300"
    click(qtbot, shell, "run_chip")
    qtbot.waitUntil(lambda: (shell.page().name, shell.page().what) == ("monitor", None))
    app.launcher.cancel()
    assert status.full_text() == "Ready, nothing is training"
    assert not shell.findChild(QPushButton, "run_chip").isVisible()


def test_an_engine_that_is_silent_can_be_waited_for_or_stopped(shell, app, training):
    app.engine.silent_s = 34.0
    app.engine.words, app.engine.tone = "The engine has not answered for 34 s.", "warn"
    app.engine.changed.emit()
    assert shell.findChild(QPushButton, "status_wait").isVisible()
    assert shell.findChild(QPushButton, "status_stop_engine").isVisible()


def test_an_engine_that_ended_by_itself_offers_to_go_on(shell, app, training, qtbot, monkeypatch):  # R7
    resumed: list[tuple[Path, str]] = []
    monkeypatch.setattr(app.launcher, "resume", lambda *run: resumed.append(run))
    assert not shell.findChild(QPushButton, "status_resume").isVisible()
    app.engine._on_ended("signal 9")
    assert "signal 9" in shell.findChild(QLabel, "status_engine").full_text()
    assert shell.findChild(QPushButton, "status_show_log").isVisible()
    click(qtbot, shell, "status_resume")
    assert resumed == [(Path("/runs/support-llama8b-r64"), "support-llama8b-r64")]
    qtbot.waitUntil(lambda: shell.page().name == "monitor")


def test_a_machine_without_a_card_says_so(shell, app):
    app.machine._on_read(None, 412 * 10**9)
    words = [label.text() for label in shell.findChild(QWidget, "status_gpu").findChildren(QLabel)]
    assert "No GPU, training runs on the processor, slowly" in words


def test_the_card_is_shown_with_what_its_driver_tells(shell, app):
    card = CardReading(
        name="RTX 6000 Ada",
        total_bytes=47 * 2**30,
        used_bytes=20 * 2**30,
        load=0.98,
        temperature_c=None,
        power_w=288.0,
        other_bytes=None,
    )
    app.machine._on_read(card, 412 * 10**9)
    spoken = shell.findChild(QWidget, "status_gpu").accessibleName()
    assert "RTX 6000 Ada" in spoken and "98" in spoken and "°C" not in spoken


def test_offline_is_shown_while_it_is_on(shell, app):
    sign = shell.findChild(QWidget, "status_offline")
    assert not sign.isVisible()
    app.preferences.set("offline", True)
    assert sign.isVisible()


def test_a_notice_is_a_toast_and_stays_behind_the_bell(shell, app, qtbot):
    app.notices.say("Copied")
    assert shell.findChild(QWidget, "toast").accessibleName() == "Copied"
    click(qtbot, shell, "status_bell")
    menu = shell.findChild(QMenu, "status_notices")
    assert "Copied" in menu.actions()[0].text()
    menu.close()


def test_a_notice_leaves_the_start_button_free(filler, app, qtbot):
    app.notices.say("Copied")
    filler.shell.open_page("train")
    toast, start = (filler.shell.findChild(QWidget, name) for name in ("toast", "train_start"))
    top = start.mapTo(filler.shell, start.rect().topLeft()).y()
    qtbot.waitUntil(lambda: start.isVisible() and toast.geometry().bottom() < top)
    filler.shell.open_page("home")
    assert toast.geometry().bottom() > top


def test_control_z_undoes_what_a_notice_offers_only_once(shell, app, qtbot):
    undone: list[bool] = []
    app.notices.say("Moved to the bin", undo=lambda: undone.append(True))
    for _ in range(2):
        qtbot.keyClick(shell, "z", Qt.KeyboardModifier.ControlModifier)
    assert undone == [True]


def test_a_window_with_nothing_in_training_closes_without_a_question(shell):
    assert shell.close()


def test_closing_while_a_run_trains_asks_first(shell, training):  # R4
    assert not shell.close()
    guard = shell.findChild(QWidget, "quit_guard")
    assert guard.accessibleName() == "Training is at step 2,251 of 3,410."


def test_stay_leaves_the_run_alone(shell, training, qtbot):
    shell.close()
    click(qtbot, shell, "quit_stay")
    assert shell.isVisible()
    assert not training.hung_up


def test_save_and_quit_closes_the_window_once_the_run_is_saved(shell, app, training, qtbot):  # R4, R7
    shell.close()
    click(qtbot, shell, "quit_save")
    assert training.hung_up
    assert shell.isVisible()
    app.engine._on_ended("")
    qtbot.waitUntil(lambda: not shell.isVisible())


def test_a_window_that_can_not_save_what_was_said_asks_before_it_closes(  # R10
    shell, app, qtbot, monkeypatch
):
    app.chat.choose_model("/models/tiny")
    app.chat.send("Hello")
    app.chat.conversations.wait()
    path = app.chat.open_path
    app.chat.rename(path, "Greetings")
    with monkeypatch.context() as broken:
        broken.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
        assert not shell.close()
        assert not shell.findChild(QWidget, "quit_save").isVisible()
        click(qtbot, shell, "quit_stay")
        assert shell.isVisible()
    assert shell.close()
    assert read_conversation(path).name == "Greetings"


def test_what_can_not_be_saved_is_left_where_the_person_says_so(shell, app, qtbot, monkeypatch):  # R10
    monkeypatch.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
    app.chat.choose_model("/models/tiny")
    app.chat.send("Hello")
    assert not shell.close()
    guard = shell.findChild(QWidget, "quit_guard")
    assert guard.accessibleName() == "What was said in Chat is not on the disk."
    assert "Could not save the conversation" in words(shell, "quit_guard")
    click(qtbot, shell, "quit_unsaved")
    assert not shell.isVisible()


def test_the_window_comes_back_where_it_was(shell, app, qtbot):
    shell.resize(1100, 700)
    shell.close()
    again = Shell(app, {})
    qtbot.addWidget(again)
    assert again.height() == 700


def _no_space(descriptor):
    raise OSError(28, "No space left on device")


def _hear(app, event):
    app.engine._follow(event)
    app.engine.heard.emit(event)


def _step(number):
    return StepFinished(
        step=number,
        loss=0.913,
        learning_rate=2e-4,
        grad_norm=0.2,
        tokens=8192,
        learned_tokens=5000,
        tokens_per_second=5104.0,
        learned_tokens_per_second=3000.0,
        rows=(1,),
        memory={},
        epoch=1.98,
        elapsed_s=number * 1.6,
        time=0.0,
    )
