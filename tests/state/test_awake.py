"""The machine stays awake while the engine works, and may sleep again afterwards."""

from __future__ import annotations

import pytest

from qlora_studio.state.awake import KeepAwake
from qlora_studio.state.engine import Doing, EngineState
from qlora_studio.state.preferences import PreferencesState


@pytest.fixture
def engine(qtbot):
    return EngineState()


@pytest.fixture
def preferences(qtbot):
    return PreferencesState()


@pytest.mark.parametrize("doing", [Doing.LOADING, Doing.TRAINING, Doing.EXPORTING])
def test_the_machine_stays_awake_while_the_engine_works(engine, preferences, doing):
    awake = KeepAwake(engine, preferences)
    engine._now(doing, "", "accent")
    assert awake.wanted
    engine._now(Doing.NOTHING, "", "ok")
    assert not awake.wanted


def test_a_chat_keeps_nobody_awake(engine, preferences):
    awake = KeepAwake(engine, preferences)
    engine._now(Doing.CHATTING, "", "accent")
    assert not awake.wanted


def test_the_switch_lets_the_machine_sleep(engine, preferences):
    awake = KeepAwake(engine, preferences)
    engine._now(Doing.TRAINING, "", "accent")
    preferences.set("keep_awake", False)
    assert not awake.wanted
    assert awake._let_sleep is None


def test_a_desktop_that_refuses_is_told_of_once(engine, preferences, qtbot, monkeypatch):
    monkeypatch.setenv("WAKEPY_FAKE_SUCCESS", "0")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    awake = KeepAwake(engine, preferences)
    with qtbot.waitSignal(awake.refused, timeout=10_000):
        engine._now(Doing.TRAINING, "", "accent")
    engine._now(Doing.NOTHING, "", "ok")


def test_a_desktop_that_refuses_is_not_told_of_while_the_sample_is_unpacked(
    engine, preferences, qtbot, monkeypatch
):
    monkeypatch.setenv("WAKEPY_FAKE_SUCCESS", "0")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    awake = KeepAwake(engine, preferences)
    with qtbot.assertNotEmitted(awake.refused), qtbot.waitSignal(awake._failed, timeout=10_000):
        engine._now(Doing.LOADING, "Unpacking the sample model", "accent")
    with qtbot.waitSignal(awake.refused, timeout=10_000):
        engine._now(Doing.TRAINING, "", "accent")
