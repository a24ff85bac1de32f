"""Pictures without a window: well-formed, with everything that was given, and nothing of outside text run."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from qlora_studio.svg_chart import Layer, Series, histogram, line_chart, stacked_bars

SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in drawn(picture).iter(f"{SVG}text")]


def test_each_series_is_a_line_with_its_name_and_a_mark_at_each_point():
    picture = line_chart(
        "Loss", "step", "nats", [Series("a", [(1, 2.0), (2, 1.0)]), Series("b", [(1, 3.0), (2, 2.5)])]
    )
    assert {"Loss", "step", "nats", "a", "b"} <= set(texts(picture))
    assert len(list(drawn(picture).iter(f"{SVG}circle"))) == 4


def test_a_lower_loss_lies_lower_and_a_later_step_further_right():
    picture = line_chart("", "", "", [Series("a", [(1, 2.0), (2, 1.0)])])
    first, second = drawn(picture).iter(f"{SVG}circle")
    assert float(first.get("cx", "")) < float(second.get("cx", ""))
    assert float(first.get("cy", "")) < float(second.get("cy", ""))  # px count from the top


def test_a_number_that_is_none_is_a_gap():
    picture = line_chart("", "", "", [Series("a", [(1, 2.0), (2, math.nan), (3, 1.0)])])
    path = next(element for element in drawn(picture).iter(f"{SVG}path") if "stroke-width" in element.attrib)
    assert path.get("d", "").count("M") == 2
    assert "nan" not in picture


def test_block_sizes_stand_at_even_steps():
    picture = line_chart("", "", "", [Series("a", [(32, 1.0), (64, 2.0), (128, 3.0)])], log2_x=True)
    assert {"32", "64", "128"} <= set(texts(picture))
    places = [float(circle.get("cx", "")) for circle in drawn(picture).iter(f"{SVG}circle")]
    assert math.isclose(places[1] - places[0], places[2] - places[1], abs_tol=0.11)


def test_nothing_to_draw_is_an_empty_picture():
    assert "Loss" in texts(line_chart("Loss", "", "", []))


def test_a_histogram_has_a_bar_for_each_bin_and_a_line_for_each_mark():
    picture = histogram("Weights", "weight", [1, 4, 1], -1.0, 1.0, [-0.5, 0.5])
    bars = [bar for bar in drawn(picture).iter(f"{SVG}rect") if bar.get("fill") == "#7593B3"]
    heights = [float(bar.get("height", "")) for bar in bars]
    assert len(bars) == 3
    assert math.isclose(heights[1], 4 * heights[0], rel_tol=0.01)
    marks = [line for line in drawn(picture).iter(f"{SVG}line") if line.get("stroke-dasharray")]
    assert len(marks) == 2


def test_a_long_name_ends_where_its_room_ends():
    picture = line_chart("", "", "", [Series("model.quantization = none", [(0, 1.0)]), Series("x" * 40, [])])
    assert {"model.quantization = none", "x" * 25 + "…"} <= set(texts(picture))


def test_names_from_outside_are_text():
    picture = line_chart("<script>", "", "", [Series('"><a>&\u202e', [(0, 1.0)])])
    assert "<script>" in texts(picture)
    assert not list(drawn(picture).iter(f"{SVG}script"))
    assert "\u202e" not in picture


def test_bars_stand_on_each_other_below_a_limit():
    layers = [Layer("below", "vram_weights", [1.0, 2.0]), Layer("above", "vram_other", [3.0, 0.5])]
    picture = stacked_bars("Memory", "GiB", ["a", "b"], layers, ("5 GiB free", 5.0))
    assert {"Memory", "GiB", "a", "b", "below", "above", "4.0", "2.5", "5 GiB free"} <= set(texts(picture))
    ground, *rects = drawn(picture).iter(f"{SVG}rect")
    (low_a, high_a), (low_b, _) = rects[:2], rects[2:4]
    bottom = float(low_a.get("y", "")) + float(low_a.get("height", ""))
    assert float(high_a.get("y", "")) + float(high_a.get("height", "")) == pytest.approx(
        float(low_a.get("y", "")), abs=0.1
    )
    assert float(low_b.get("height", "")) == pytest.approx(2 * float(low_a.get("height", "")), abs=0.02)
    assert bottom < float(ground.get("height", ""))
