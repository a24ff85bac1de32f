"""What an axis writes beside a line is where the line lies."""

from __future__ import annotations

import pytest

from qlora_studio.ui.pages.monitor_chart import LossAxis, StepsAxis
from qlora_studio.ui.pages.monitor_curves import DegreeAxis
from qlora_studio.ui.pages.runs_chart import MillionsAxis, TimeAxis
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.axis import ThousandsAxis

HIGHEST = [0.04, 0.11, 0.9, 1.7, 2.6, 7.6, 9.4, 14, 23, 61, 260, 1_740, 12_345, 1_000_000]
SIZES = [60, 110, 190, 300, 700]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "make", [lambda: ThousandsAxis("left"), LossAxis, StepsAxis, lambda: DegreeAxis("left")]
)
def test_the_number_at_a_line_is_its_value(qapp, make, size):
    theme()
    axis = make()
    for highest in HIGHEST:
        ((step, ticks),) = axis.tickValues(0.0, highest, size)
        words = axis.tickStrings(ticks, 1.0, step)
        values = [float(word.replace(",", "").rstrip("°")) for word in words]
        assert values == pytest.approx(ticks, abs=step * 1e-6), highest


def test_no_line_stands_between_two_steps(qapp):
    for highest in HIGHEST:
        ((_, ticks),) = StepsAxis().tickValues(0.0, highest, 700)
        assert all(tick == int(tick) for tick in ticks), highest


UNITS = {"s": 1, "min": 60, "h": 3600, "k": 1e3, "M": 1e6}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [TimeAxis, MillionsAxis])
def test_a_number_with_its_unit_is_the_value_of_its_line(qapp, make, size):
    theme()
    axis = make("bottom")
    for highest in (*HIGHEST, 5_000, 86_400, 63_000_000):
        ((step, ticks),) = axis.tickValues(0.0, highest, size)
        words = [word.replace("k", " k").split() for word in axis.tickStrings(ticks, 1.0, step)]
        values = [float(number.replace(",", "")) * UNITS[unit] for number, unit in words]
        assert values == pytest.approx(ticks, abs=step * 1e-6), highest


@pytest.mark.parametrize(
    ("highest", "words"),
    [
        (55, ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s"]),
        (280, ["0 min", "1 min", "2 min", "3 min", "4 min"]),
        (5_000, ["0 min", "15 min", "30 min", "45 min", "60 min", "75 min"]),
        (19_000, ["0 h", "1 h", "2 h", "3 h", "4 h", "5 h"]),
    ],
)
def test_lines_stand_at_round_minutes_and_hours(qapp, highest, words):
    theme()
    axis = TimeAxis("bottom")
    ((step, ticks),) = axis.tickValues(0.0, highest, 400)
    assert axis.tickStrings(ticks, 1.0, step) == words
