"""Fields in columns: as many as the room asks for, each line as high as its highest."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QWidget

from qlora_studio.ui.widgets.columns import Columns

GAP, LINE_GAP = 10, 4


@pytest.fixture
def area(qtbot):
    """Five fields in a layout of at most four columns of at least 100 px."""
    widget = QWidget()
    columns = Columns(most=4, least=100, gap=GAP, line_gap=LINE_GAP)
    widget.setLayout(columns)
    for number in range(5):
        field = QWidget()
        field.setFixedHeight(20 + 10 * number)
        columns.addWidget(field)
    qtbot.addWidget(widget)
    widget.show()
    return widget


@pytest.mark.parametrize(("width", "across"), [(500, 4), (429, 2), (210, 2), (209, 1)])
def test_four_columns_become_two_and_then_one(area, width, across):
    area.layout().setGeometry(area.rect().adjusted(0, 0, width - area.width(), 0))
    fields = [area.layout().itemAt(place).widget() for place in range(5)]
    assert len({field.x() for field in fields}) == across
    assert len({field.width() for field in fields}) == 1


def test_the_height_is_that_of_all_lines(area):
    assert area.layout().heightForWidth(500) == 50 + LINE_GAP + 60
    assert area.layout().heightForWidth(100) == 20 + 30 + 40 + 50 + 60 + 4 * LINE_GAP


def test_what_is_hidden_takes_no_place(area):
    area.layout().itemAt(4).widget().hide()
    assert area.layout().heightForWidth(500) == 50


def test_fields_can_move_to_another_layout(area, qtbot):
    other = Columns(most=2, least=100, gap=GAP, line_gap=LINE_GAP)
    holder = QWidget()
    holder.setLayout(other)
    qtbot.addWidget(holder)
    moved = [area.layout().itemAt(place).widget() for place in (0, 1)]
    rest = [area.layout().itemAt(place).widget() for place in (2, 3, 4)]
    area.layout().show_widgets(rest)
    other.show_widgets(moved)
    assert area.layout().count() == 3
    assert [widget.parent() for widget in moved] == [holder, holder]
