"""Figures as a person reads them."""

from __future__ import annotations

import pytest

from qlora_studio.ui import figures
from qlora_studio.ui.run_words import state_word


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (1860, "31 min"), (5580, "1 h 33 min"), (7200, "2 h")],
)
def test_a_time_is_said_in_hours_and_minutes(seconds, words):
    assert figures.duration(seconds).replace(figures.THIN, " ") == words


def test_days_are_said_as_days():
    assert figures.duration(3 * 86_400 + 5 * 3600).replace(figures.THIN, " ") == "3 d 5 h"


@pytest.mark.parametrize(
    ("size", "words"),
    [(412e9, "412 GB"), (4.2e9, "4.2 GB"), (671e6, "671 MB"), (12_345, "13 kB"), (0, "0 kB")],
)
def test_files_are_counted_by_tens(size, words):
    assert figures.in_gb(size).replace(figures.THIN, " ") == words


def test_memory_is_counted_as_the_driver_does():
    assert figures.in_gib(31.2 * 2**30).replace(figures.THIN, " ") == "31.2 GiB"


def test_a_loss_that_is_no_number_is_never_shown_as_one():  # R12
    assert figures.loss(float("nan")) == "not a number"
    assert figures.loss(None) == "–"


def test_ages_are_said_in_words():
    assert figures.ago(100.0, now=130.0) == "just now"
    assert figures.ago(0.0, now=100_000.0) == "yesterday"


def test_no_state_of_a_run_looks_like_a_checkbox():
    states = ("running", "paused", "stopped", "finished", "failed", "interrupted", "queued", "unreadable")
    assert "square" not in {state_word(state).icon_name for state in states}
