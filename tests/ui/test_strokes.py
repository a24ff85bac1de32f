"""Curves and areas painted in one pass: where they stand, what a gap is, what is drawn thin."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
import pytest
from PySide6.QtGui import QColor, QImage, QPainter, QPen
from PySide6.QtWidgets import QStyleOptionGraphicsItem

from qlora_studio.ui.theme import blended, fade
from qlora_studio.ui.widgets.strokes import Area, Stroke, Strokes

WIDTH, HEIGHT = 200, 100
RED, BLUE = QColor("#ff0000"), QColor("#0000ff")


@pytest.fixture
def box(qapp):
    box = pg.ViewBox(enableMenu=False)
    box.resize(WIDTH, HEIGHT)
    return box


@pytest.fixture
def strokes(box):
    strokes = Strokes(box)
    strokes.fine = False
    return strokes


def test_a_curve_stands_where_its_values_are(strokes):
    strokes.strokes.append(stroke([0.0, 10.0], [5.0, 5.0]))
    strokes.fit((0.0, 10.0), (0.0, 10.0))
    assert red_places(strokes)[:, 1].tolist() == pytest.approx([50] * WIDTH, abs=1)


def test_a_value_that_is_no_number_is_a_gap(strokes):  # R12
    strokes.strokes.append(stroke([0.0, 2.0, 5.0, 8.0, 10.0], [5.0, 5.0, np.nan, 5.0, 5.0]))
    strokes.fit((0.0, 10.0), (0.0, 10.0))
    across = red_places(strokes)[:, 0]
    assert not ((across > 45) & (across < 155)).any()
    assert {10, 190} <= set(across.tolist())


def test_one_value_alone_is_a_dot(strokes):
    strokes.strokes.append(stroke([5.0], [5.0]))
    strokes.fit((0.0, 10.0), (0.0, 10.0))
    assert 4 <= np.ptp(red_places(strokes)[:, 0]) <= 10


def test_an_area_reaches_to_the_ground_and_under_the_curves(strokes):
    area = Area()
    area.brush = pg.mkBrush(BLUE)
    area.x, area.y = np.array([0.0, 10.0]), np.array([4.0, 4.0])
    strokes.areas.append(area)
    strokes.strokes.append(stroke([0.0, 10.0], [2.0, 2.0]))
    strokes.fit((0.0, 10.0), (0.0, 10.0))
    picture = painted(strokes)
    assert [picture.pixelColor(100, y) for y in (50, 65, 95)] == [QColor("white"), BLUE, BLUE]
    assert picture.pixelColor(100, 80) == RED or picture.pixelColor(100, 79) == RED


def test_what_is_drawn_follows_the_size_of_its_box(strokes, box):
    strokes.strokes.append(stroke([0.0, 10.0], [5.0, 5.0]))
    strokes.fit((0.0, 10.0), (0.0, 10.0))
    box.resize(WIDTH, HEIGHT / 2)
    assert red_places(strokes)[:, 1].tolist() == pytest.approx([25] * WIDTH, abs=1)


def test_a_curve_that_goes_up_and_down_at_each_pixel_is_drawn_thin(strokes):
    calm, rough = stroke(range(400), [5.0] * 400, 3.0), stroke(range(400), [2.0, 8.0] * 200, 3.0)
    strokes.strokes += [calm, rough]
    strokes.fit((0.0, 400.0), (0.0, 10.0))
    assert (calm.rough, rough.rough) == (False, True)
    assert np.unique(red_places(strokes, only=[calm])[:, 1]).size == 3
    assert np.unique(red_places(strokes, only=[rough])[:, 1]).size <= 62  # of 60 and one at each end


def test_a_blended_colour_is_what_a_faint_one_looks_like():
    picture = QImage(1, 1, QImage.Format.Format_RGB32)
    picture.fill("#ffffff")
    painter = QPainter(picture)
    painter.fillRect(picture.rect(), fade("#204060", 0.5))
    painter.end()
    seen, made = picture.pixelColor(0, 0), blended("#204060", "#ffffff", 0.5)
    assert made.alpha() == 255
    assert made.getRgb()[:3] == pytest.approx(seen.getRgb()[:3], abs=1)


def stroke(x, y, width=1.0):
    found = Stroke(QPen(RED, width))
    found.x, found.y = np.array(x, "float64"), np.array(y, "float64")
    return found


def painted(strokes):
    picture = QImage(WIDTH, HEIGHT, QImage.Format.Format_RGB32)
    picture.fill("white")
    painter = QPainter(picture)
    strokes.paint(painter, QStyleOptionGraphicsItem())
    painter.end()
    return picture


def red_places(strokes, only=None):
    """x and y of each red pixel."""
    if only is not None:
        strokes.strokes = only
    picture = painted(strokes)
    places = [(x, y) for x in range(WIDTH) for y in range(HEIGHT) if picture.pixelColor(x, y) == RED]
    return np.array(places)
