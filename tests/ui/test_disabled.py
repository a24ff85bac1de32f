"""What can't be used says why, in words that stand beside it: on every page, empty, filled and busy."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QScrollBar,
    QWidget,
)

from qlora_studio.protocol import commands, events, reading
from qlora_studio.state.engine import Doing
from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.widgets.allowed import WHY_NOT
from tests.state.reports import CHECKED_ADAPTER, chat_encoded
from tests.ui.filled_pages import FILLED, Filler
from tests.ui.person import click, found, text_of

CONTROLS = (QAbstractButton, QAbstractSpinBox, QComboBox, QAbstractSlider, QLineEdit)


@pytest.mark.parametrize("name", list(page_factories()))
def test_on_an_empty_page(filler, name):
    filler.shell.open_page(name)
    assert _without_a_reason(filler) == []


@pytest.mark.parametrize("name", FILLED)
def test_on_a_page_with_all_that_may_stand_on_it(filler, name):
    filler.fill(name)
    assert _without_a_reason(filler) == []


@pytest.mark.parametrize("name", list(page_factories()))
def test_while_a_run_trains(filler, name):
    filler.monitor_live()
    filler.shell.open_page(name)
    filler.qtbot.wait(100)
    assert _without_a_reason(filler) == []


@pytest.mark.parametrize("name", ["home", "train", "runs", "monitor", "chat", "export", "settings"])
def test_while_a_run_is_made_ready(filler, name):
    filler.fill("train")
    filler.app.launcher.start(filler.app.draft.config, "my-run")
    filler.shell.open_page(name)
    filler.qtbot.wait(100)
    assert _without_a_reason(filler) == []


def test_while_a_run_is_stopped(filler):
    page = filler.monitor_live()
    filler.app.engine.stop_training()
    assert not found(page, "monitor_pause").isEnabled()
    assert _without_a_reason(filler) == []


def test_while_a_paused_run_is_verified(filler, monkeypatch):
    page = filler.fill("monitor")
    filler.app.monitor.verifying = True
    filler.app.monitor.changed.emit()
    assert not found(page, "monitor_pause").isEnabled()
    assert _without_a_reason(filler) == []


def test_while_a_reply_is_written(filler):
    page = filler.fill("chat")
    filler.app.chat.send("And how many are left tomorrow?")
    filler.silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = filler.silent.last_said(commands.Generate)
    filler.silent.hear(events.TextGenerated(id=writing.id, text="None.", tokens=2))
    assert not found(page, "chat_right").isEnabled()
    assert _without_a_reason(filler) == []


def test_where_nothing_was_typed_send_says_so(filler):
    page = filler.fill("chat")
    found(page, "chat_input").setPlainText("")
    assert not found(page, "chat_send").isEnabled()
    assert _without_a_reason(filler) == []


def test_where_the_likeliest_token_is_always_taken(filler, qtbot):
    page = filler.fill("chat")
    click(qtbot, page, "chat_greedy")
    assert not found(page, "chat_top_k").isEnabled()
    assert _without_a_reason(filler) == []


@pytest.mark.parametrize("asked", ["", "stop"])
def test_while_an_export_is_written(filler, asked):
    page = filler.fill("export")
    filler.app.export.start()
    filler.silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    while filler.silent.asked(reading.EncodeChat):
        filler.silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    {"": lambda: None, "stop": filler.app.export.stop}[asked]()
    assert not found(page, "export_run").isEnabled()
    assert _without_a_reason(filler) == []


def test_while_the_engine_works_the_cache_is_kept(filler, qtbot):
    page = filler.fill("settings")
    filler.app.engine._now(Doing.EXPORTING, "Exporting", "accent")
    qtbot.waitUntil(lambda: page._folders.sizes is not None)
    assert not found(page, "settings_clear_cache").isEnabled()
    assert _without_a_reason(filler) == []


def _without_a_reason(filler: Filler) -> list[str]:
    """Controls that can't be used, and the reason that isn't there to be read."""
    window = filler.shell
    words = " ".join(text_of(label) for label in window.findChildren(QLabel) if label.isVisible()).casefold()
    return [
        f"{control.objectName()}: {_reason(control)!r}"
        for control in window.findChildren(QWidget)
        if isinstance(control, CONTROLS)
        and not isinstance(control, QScrollBar)
        and control.isVisible()
        and not control.isEnabled()
        and not (_reason(control) and _reason(control).casefold() in words)
        and not isinstance(control.parentWidget(), QAbstractSpinBox | QComboBox)
    ]


def _reason(control: QWidget) -> str:
    """Its own, or that of what it is a part of."""
    own = control.property(WHY_NOT)
    parent = control.parentWidget()
    return own or (_reason(parent) if parent is not None else "")
