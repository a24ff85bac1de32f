"""Widgets that flow: as many lines as the width asks for."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QRect
from PySide6.QtWidgets import QLabel, QWidget

from qlora_studio.ui.widgets.flow import Flow


@pytest.fixture
def flow(qtbot):
    area = QWidget()
    qtbot.addWidget(area)
    layout = Flow(gap=10, line_gap=5, last_at_right=True, parent=area)
    for _ in range(3):
        label = QLabel()
        label.setFixedSize(100, 20)
        layout.addWidget(label)
    yield layout
    assert area.layout() is layout  # it lives as long as its area


def test_all_stand_on_one_line_where_there_is_room(flow):
    flow.setGeometry(QRect(0, 0, 400, 20))
    assert places(flow) == [(0, 0), (110, 0), (300, 0)]
    assert flow.heightForWidth(400) == 20


def test_a_narrow_area_takes_more_lines(flow):
    flow.setGeometry(QRect(0, 0, 220, 45))
    assert places(flow) == [(0, 0), (110, 0), (120, 25)]
    assert (flow.heightForWidth(220), flow.heightForWidth(110)) == (45, 70)


def test_what_is_hidden_takes_no_room(flow):
    flow.itemAt(0).widget().hide()
    assert flow.sizeHint().width() == 210


def test_lines_may_stand_in_the_middle(qtbot):
    area = QWidget()
    qtbot.addWidget(area)
    layout = Flow(gap=10, line_gap=5, centred=True, parent=area)
    for _ in range(3):
        label = QLabel()
        label.setFixedSize(100, 20)
        layout.addWidget(label)
    layout.setGeometry(QRect(0, 0, 250, 45))

    assert places(layout) == [(20, 0), (130, 0), (75, 25)]


def places(flow):
    return [(flow.itemAt(at).geometry().x(), flow.itemAt(at).geometry().y()) for at in range(flow.count())]
