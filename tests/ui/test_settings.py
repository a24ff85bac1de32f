"""Settings: a change acts at once, a section goes back to its defaults, a word finds its setting."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QWidget

from qlora_studio.config import places
from qlora_studio.state.app import AppState
from qlora_studio.state.engine import Doing
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.ui.look import follow_preferences
from qlora_studio.ui.pages.settings import SettingsPage
from qlora_studio.ui.pages.settings_about import report
from qlora_studio.ui.theme import ThemeChoice, theme
from qlora_studio.ui.widgets import Popover
from tests.ui.person import click


@pytest.fixture
def app(qtbot):
    state = AppState()
    follow_preferences(state.preferences)
    yield state
    state.close()
    theme().set_choice(ThemeChoice.SYSTEM)
    theme().set_text_size(100)
    theme().set_reduced_motion(False)


@pytest.fixture
def page(app, qtbot):
    settings = SettingsPage(app).whole()
    qtbot.addWidget(settings)
    settings.resize(1200, 860)
    settings.show()
    settings.opened(None)
    qtbot.waitUntil(lambda: settings._folders.sizes is not None)
    return settings


def test_the_theme_changes_at_once_and_is_kept(page, app, qtbot):
    click(qtbot, page, "settings_theme_dark")
    assert theme().is_dark
    assert PreferencesState().values.theme == "dark"


def test_the_text_grows_at_once(page, qtbot):
    page.findChild(QWidget, "settings_text_size").setValue(150)
    assert theme().text_size == 150


def test_less_motion_is_honoured(page, qtbot):
    click(qtbot, page, "settings_motion_on")
    assert theme().reduced_motion


def test_a_section_goes_back_to_its_defaults(page, app, qtbot):
    click(qtbot, page, "settings_theme_dark")
    page.findChild(QWidget, "settings_text_size").setValue(120)
    click(qtbot, page, "settings_reset_look")
    assert (app.preferences.values.theme, app.preferences.values.text_size) == ("system", 100)
    assert page.findChild(QWidget, "settings_theme").value() == "system"


@pytest.mark.parametrize(
    ("name", "key"), [("keep_awake", "keep_awake"), ("notify", "notify"), ("sound", "sound")]
)
def test_a_switch_is_kept(page, app, qtbot, name, key):
    before = getattr(app.preferences.values, key)
    click(qtbot, page, f"settings_{name}")
    assert getattr(app.preferences.values, key) is not before


def test_a_runs_folder_that_can_not_be_written_gives_its_reason_and_keeps_the_old_one(page, app, tmp_path):
    file = tmp_path / "a-file"
    file.write_text("")
    page.use_folder("runs", file / "runs")
    assert "can't be written to" in page._runs.note()
    assert app.preferences.runs_folder == places.runs_folder()


def test_another_runs_folder_is_used_from_now_on(page, app, tmp_path):
    page.use_folder("runs", tmp_path / "elsewhere")
    assert app.preferences.runs_folder == tmp_path / "elsewhere"
    assert page.findChild(QLabel, "settings_runs_folder").full_text() == str(tmp_path / "elsewhere")


def test_another_models_folder_is_the_one_that_is_listed(page, app, tmp_path, qtbot):
    (tmp_path / "mine" / "Llama-3.1-8B").mkdir(parents=True)
    page.use_folder("models", tmp_path / "mine")
    app.models.look()
    qtbot.waitUntil(lambda: "Llama-3.1-8B" in [entry.name for entry in app.models.table.entries])
    assert page.findChild(QLabel, "settings_models_folder").full_text() == str(tmp_path / "mine")


def test_another_cache_is_used_at_once_and_at_the_next_start(page, app, tmp_path, monkeypatch, qtbot):
    monkeypatch.setenv("QLORA_STUDIO_CACHE", "")  # and as it was, afterwards
    usual = places.cache_folder()
    page.use_folder("cache", tmp_path / "roomy")
    assert places.cache_folder() == tmp_path / "roomy"
    places.use_cache_folder("")
    assert PreferencesState().values.cache_folder == str(tmp_path / "roomy")
    assert places.cache_folder() == tmp_path / "roomy"
    click(qtbot, page, "settings_reset_folders")
    assert places.cache_folder() == usual


def test_a_reader_that_rests_is_replaced_when_the_cache_moves(app, page, tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_STUDIO_CACHE", "")
    renewed = []
    for reader in (app.reader, app.chat_reader, app.doctor_reader):
        monkeypatch.setattr(reader, "renew", lambda reader=reader: renewed.append(reader))
    page.use_folder("cache", tmp_path / "roomy")
    assert renewed == [app.reader, app.chat_reader, app.doctor_reader]


def test_clearing_the_cache_asks_first_and_says_how_much_came_back(page, app, qtbot):
    file = places.cache_folder() / "datasets" / "rows.arrow"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 5000)
    page.rescan()
    qtbot.waitUntil(lambda: page._folders.sizes is not None and page._folders.sizes.cache >= 5000)
    click(qtbot, page, "settings_clear_cache")
    question = page.window().findChild(Popover, "settings_clear")
    assert file.exists()
    with qtbot.waitSignal(app.notices.said):
        qtbot.mouseClick(question.yes, Qt.MouseButton.LeftButton)
    assert not file.exists()


def test_the_cache_can_not_be_cleared_while_the_engine_works(page, app):
    app.engine.doing = Doing.LOADING
    app.engine.changed.emit()
    button = page.findChild(QWidget, "settings_clear_cache")
    assert not button.isEnabled()
    assert button.toolTip() == "the engine works with it now"
    assert not page.findChild(QWidget, "settings_change_cache").isEnabled()


def test_a_word_finds_its_setting(page):
    page.search.setText("awake")
    assert page.findChild(QWidget, "settings_training").isVisible()
    assert not page.findChild(QWidget, "settings_look").isVisible()
    assert not page.findChild(QWidget, "settings_sound").isVisible()
    page.search.clear()
    assert page.findChild(QWidget, "settings_sound").isVisible()


def test_the_report_tells_versions_and_names_nobody(page, app, qtbot, monkeypatch):  # R16
    monkeypatch.setenv("HOME", str(places.runs_folder().parents[1]))
    click(qtbot, page, "settings_copy_report")
    assert QGuiApplication.clipboard().text() == report()
    assert "torch" in report()
    assert str(places.runs_folder().parents[1]) not in report()
