"""What an axis writes beside a line is where the line lies."""

from __future__ import annotations

import pytest

from qlora_studio.ui.pages.monitor_chart import LossAxis, StepsAxis
from qlora_studio.ui.pages.monitor_curves import DegreeAxis
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.axis import ThousandsAxis

HIGHEST = [0.04, 0.11, 0.9, 1.7, 2.6, 7.6, 9.4, 14, 23, 61, 260, 1_740, 12_345, 1_000_000]
SIZES = [60, 110, 190, 300, 700]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("highest", HIGHEST)
@pytest.mark.parametrize(
    "make", [lambda: ThousandsAxis("left"), LossAxis, StepsAxis, lambda: DegreeAxis("left")]
)
def test_the_number_at_a_line_is_its_value(qapp, make, highest, size):
    theme()
    axis = make()
    ((step, ticks),) = axis.tickValues(0.0, highest, size)
    words = axis.tickStrings(ticks, 1.0, step)
    assert [float(word.replace(",", "").rstrip("°")) for word in words] == pytest.approx(
        ticks, abs=step * 1e-6
    )


@pytest.mark.parametrize("highest", HIGHEST)
def test_no_line_stands_between_two_steps(qapp, highest):
    ((_, ticks),) = StepsAxis().tickValues(0.0, highest, 700)
    assert all(tick == int(tick) for tick in ticks)
