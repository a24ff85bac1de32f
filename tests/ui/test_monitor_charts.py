"""The Monitor's charts: curves as steps come, one crosshair and zoom for all, and what is saved of them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from pyqtgraph import TextItem
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QFontMetrics, QImage
from PySide6.QtWidgets import QSlider, QTableView, QWidget

from qlora_studio.memory.devices import CardReading
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import RewardsMeasured
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.ui.figures import THIN
from qlora_studio.ui.theme import theme
from tests.ui.example_runs import GIB, Example, hear_steps, step_event
from tests.ui.person import click, found, words


def test_steps_become_points_of_every_chart(training, silent, qtbot):
    hear_steps(silent, 1, 40)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    assert not training.findChild(QWidget, "monitor_waiting").isVisible()
    assert _drawn(found(training, "monitor_loss")) == [40, 40]
    for name in ("monitor_lr", "monitor_grad_norm", "monitor_speed"):
        assert _drawn(found(training, name)) == [40]


@pytest.mark.fault(19)
def test_a_loss_that_is_no_number_is_a_gap_with_its_step(training, silent, qtbot):  # R12
    bad = Example(total_steps=400, nan_at=(23,), spikes=())
    for number in range(1, 41):
        silent.hear(step_event(number, bad))
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    chart = found(training, "monitor_loss")
    assert [label.toPlainText() for label in chart._labels] == ["NaN at step 23"]
    assert all(np.isnan(values[22]) for values in _values(chart))


def test_the_line_at_which_gradients_are_shortened_says_so(open_run, make):
    chart = found(open_run(make()), "monitor_grad_norm")
    label = next(item for item in chart.scene().items() if isinstance(item, TextItem) and item.isVisible())
    assert label.toPlainText() == "clip 0.3"
    unclipped = found(
        open_run(make(name="free", changes={"training.max_grad_norm": 0.0})), "monitor_grad_norm"
    )
    assert not [item for item in unclipped.scene().items() if isinstance(item, TextItem) and item.isVisible()]


@pytest.mark.parametrize(("norm", "is_below"), [(0.05, False), (0.2, True)])
def test_the_words_of_that_line_stand_where_the_curve_is_not(open_run, make, norm, is_below):
    chart = found(open_run(make(changes={"training.max_grad_norm": norm})), "monitor_grad_norm")
    label = next(item for item in chart.scene().items() if isinstance(item, TextItem) and item.isVisible())
    line = chart.box.mapViewToScene(QPointF(0.0, norm)).y()
    assert (label.sceneBoundingRect().center().y() > line) is is_below


def test_how_far_better_answers_are_preferred_is_drawn_where_a_run_learns_that(open_run, make):
    assert not found(open_run(make()), "monitor_reward_card").isVisible()
    folder = make(name="dpo", steps=400, end="paused", changes={"training.method": "dpo"})
    measured = [
        RewardsMeasured(
            step=step, held_out=held_out, better=0.1, worse=-0.2, margin=step / 100, accuracy=0.75
        )
        for step, held_out in ((100, False), (200, False), (200, True), (300, False))
    ]
    with (folder / "metrics.jsonl").open("ab") as metrics:
        metrics.writelines(map(EVENTS.encode, measured))
    page = open_run(folder)
    assert found(page, "monitor_reward_card").isVisible()
    chart = found(page, "monitor_reward_margin")
    assert chart._steps.getData()[1].tolist() == [1, 2, 3]
    assert chart._held_out.getData()[1].tolist() == [2]
    assert chart.accessibleDescription() == f"2.000 · 75{THIN}% right"
    assert words(page, "monitor_loss_unit") == "nats per pair"


def test_the_crosshair_stands_in_all_charts_with_one_readout(open_run, make):
    page = open_run(make(end="paused"))
    page.stretch.point_near(173.0)
    assert all(
        found(page, name)._crosshair.isVisible() for name in ("monitor_loss", "monitor_vram", "monitor_lr")
    )
    assert "Step 173" in page.findChild(QWidget, "monitor_readout").accessibleName()


@pytest.mark.parametrize(
    ("key", "modifier", "step"),
    [
        (Qt.Key.Key_Home, Qt.KeyboardModifier.NoModifier, 1),
        (Qt.Key.Key_End, Qt.KeyboardModifier.NoModifier, 300),
        (Qt.Key.Key_Left, Qt.KeyboardModifier.NoModifier, 149),
        (Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier, 200),
    ],
)
def test_keys_move_the_crosshair(open_run, make, qtbot, key, modifier, step):
    page = open_run(make(end="paused"))
    page.stretch.point_near(150.0)
    chart = _focused(page, qtbot, "monitor_loss")
    qtbot.keyClick(chart, key, modifier)
    assert int(page.stretch.points.steps[page.stretch.place]) == step


def test_dragging_zooms_to_the_steps_under_it_in_all_charts(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    chart = found(page, "monitor_loss")
    left, right = (QPoint(chart.x_of(step), 60) for step in (100, 200))
    qtbot.mousePress(chart.viewport(), Qt.MouseButton.LeftButton, pos=left)
    qtbot.mouseMove(chart.viewport(), right)
    qtbot.mouseRelease(chart.viewport(), Qt.MouseButton.LeftButton, pos=right)
    assert page.stretch.first == pytest.approx(100, abs=2)
    assert page.stretch.last == pytest.approx(200, abs=2)
    for name in ("monitor_loss", "monitor_vram", "monitor_speed"):
        assert found(page, name).box.viewRange()[0] == pytest.approx([100, 200], abs=2)


def test_a_double_click_shows_all_steps_again(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    qtbot.mouseDClick(found(page, "monitor_loss").viewport(), Qt.MouseButton.LeftButton)
    assert page.stretch.first <= 0 and page.stretch.last >= 400


def test_while_the_newest_step_is_in_sight_it_stays_so(training, silent, qtbot):
    hear_steps(silent, 1, 100)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 100)
    training.stretch.show(60, 105)
    hear_steps(silent, 101, 150)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 150)
    assert (training.stretch.first, training.stretch.last) == (110, 155)


def test_the_loss_can_be_shown_on_a_logarithmic_scale(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    chart = found(page, "monitor_loss")
    plain = np.nanmax(_values(chart)[0])
    click(qtbot, page, "monitor_loss_log")
    assert np.nanmax(_values(chart)[0]) == pytest.approx(math.log10(plain))


def test_no_smoothing_draws_each_step(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.findChild(QSlider, "monitor_smoothing").setValue(0)
    qtbot.waitUntil(lambda: np.array_equal(*_values(found(page, "monitor_loss"))))


def test_memory_is_stacked_by_part_and_a_spike_is_named(open_run, make):
    page = open_run(make(end="paused", spikes=(220,)))
    chart = found(page, "monitor_vram")
    tops = [float(np.median(chart._areas[part].y)) for part in ("weights", "optimizer", "other")]
    assert tops == sorted(tops) and tops[0] == pytest.approx(5.5)
    assert "Step 220 took" in words(page, "monitor_spike")


def test_a_run_recorded_on_a_card_is_drawn_where_there_is_none(open_run, make):
    """As `qlora-studio --run FOLDER` shows it: limit, other programs and spill are the run's own."""
    page = open_run(
        make(end="paused", spikes=(), device_bytes=24 * GIB, others_gib={150: 3.0}, in_ram_gib={200: 0.75})
    )
    chart = found(page, "monitor_vram")
    assert chart._levels["limit"].label.toPlainText() == "card limit 24.0"
    own, others = (np.array(area.y)[-1] for area in (chart._areas["other"], chart._others))
    assert others - own == pytest.approx(3.0)
    assert np.array(chart._others.y)[0] == pytest.approx(np.array(chart._areas["other"].y)[0])
    optimizer, on_card = (np.array(area.y)[-1] for area in (chart._in_ram, chart._on_card))
    assert optimizer - on_card == pytest.approx(0.75)
    shown = words(page, "monitor_vram_card")
    assert ("Other programs" in shown, "Optimizer in RAM" in shown) == (True, True)


def test_a_run_that_had_the_card_for_itself_shows_neither_other_programs_nor_a_spill(open_run, make):
    page = open_run(make(end="paused", spikes=()))
    chart = found(page, "monitor_vram")
    assert not any(len(area.x) for area in (chart._others, chart._in_ram, chart._on_card))
    assert "Other programs" not in words(page, "monitor_vram_card")


def test_each_spike_names_its_step_and_its_rows_and_the_crosshair_goes_there(open_run, make, qtbot):
    page = open_run(make(end="paused", spikes=(100, 220)))
    highest = words(page, "monitor_spike")
    qtbot.waitUntil(lambda: "It computed training rows" in words(page, "monitor_spike"))
    seen = set()
    for _ in range(2):
        click(qtbot, page, "monitor_next_spike")
        step = int(page.stretch.points.steps[page.stretch.place])
        said = f"It computed training rows {step + 1}, {step + 2}."
        qtbot.waitUntil(lambda said=said: said in words(page, "monitor_spike"))
        assert f"Step {step} took" in words(page, "monitor_spike")
        seen.add(step)
    assert seen == {100, 220}
    assert highest.startswith(("A", "B"))


def test_a_click_on_a_spike_tells_how_long_its_rows_are_and_leads_to_them(
    open_run, make, app, asked, silent, qtbot
):
    page = open_run(make(end="paused", spikes=(100, 220)))
    chart = found(page, "monitor_vram")
    qtbot.waitUntil(lambda: found(page, "monitor_show_rows").isVisible())
    assert not silent.asked(reading.ShowRowLengths)  # nobody asked: no reader is started for it

    at = QPoint(chart.x_of(100.0), chart.height() // 2)
    qtbot.mouseClick(chart.viewport(), Qt.MouseButton.LeftButton, pos=at)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.ShowRowLengths)))
    assert silent.asked(reading.ShowRowLengths)[0].rows == (100, 101)
    silent.answer(reading.ShowRowLengths, reading.RowLengthsShown, tokens=(310, 2_044))
    said = "It computed training rows 102 (2,044 tokens), 101 (310 tokens)."
    assert said in words(page, "monitor_spike")

    click(qtbot, page, "monitor_show_rows")
    ((where, named),) = asked
    assert (where, named.rows) == ("data", (101, 100))
    assert named.words == "the 2 rows of step 100 of support-llama8b-r64"
    assert named.data == app.monitor.run.record.config.data


def test_a_click_on_a_spike_names_it_and_one_elsewhere_changes_nothing(open_run, make, qtbot):
    page = open_run(make(end="paused", spikes=(100, 220)))
    chart = found(page, "monitor_vram")
    for step, named in ((100, 100), (220, 220), (100, 100), (160, 100)):
        at = QPoint(chart.x_of(float(step)), chart.height() // 2)
        qtbot.mouseClick(chart.viewport(), Qt.MouseButton.LeftButton, pos=at)
        assert f"Step {named} took" in words(page, "monitor_spike")


def test_on_a_processor_it_is_called_process_memory(open_run, make):
    page = open_run(make(end="paused", device="cpu"))
    assert "Process memory" in words(page, "monitor_vram_card")
    assert not page.findChild(QWidget, "monitor_gpu_card").isVisible()


def test_before_a_run_is_open_it_speaks_of_the_memory_of_this_machine(open_run, app):
    page = open_run(None)
    assert "Process memory" in words(page, "monitor_vram_card")
    assert "Memory peak" in words(page, "monitor_number_peak")
    card = CardReading(
        name="RTX 6000 Ada", total_bytes=47 * 2**30, used_bytes=0, load=None, temperature_c=None,
        power_w=None, other_bytes=None,
    )  # fmt: skip
    app.machine._on_read(card, 412 * 10**9)
    app.monitor.changed.emit()
    assert "VRAM" in words(page, "monitor_vram_card")


@pytest.mark.parametrize("limit_gib", [20.0, 21.0, 21.7, 22.0, 23.0, 25.0, 30.0, 47.4, 200.0])
@pytest.mark.parametrize("height", [190, 300])
def test_the_words_of_limit_and_promise_never_lie_on_each_other(open_run, make, limit_gib, height):
    page = open_run(make(end="paused"))
    chart = found(page, "monitor_vram")
    chart.resize(500, height)
    chart.set_levels("card limit", int(limit_gib * 2**30), int(21.7 * 2**30))
    words = [level.label.sceneBoundingRect() for level in chart._levels.values()]
    assert not words[0].intersects(words[1])
    assert all(chart.sceneRect().contains(place) for place in words)


@pytest.mark.parametrize("name", ["monitor_lr", "monitor_grad_norm", "monitor_speed"])
@pytest.mark.parametrize("text_size", [100, 200])
def test_numbers_of_a_low_axis_have_a_line_each(open_run, make, name, text_size):
    theme().set_text_size(text_size)
    page = open_run(make(end="paused"))
    axis = found(page, name).axes["left"]
    (low, high), height = axis.range, axis.height()
    ticks = sorted(value for _, values in axis.tickValues(low, high, height) for value in values)
    lines = [(after - before) / (high - low) * height for before, after in pairwise(ticks)]
    theme().set_text_size(100)
    assert len(ticks) >= 2
    assert min(lines) >= QFontMetrics(axis.style["tickFont"]).height()


def test_the_curves_can_be_read_as_a_table(open_run, make, qtbot):
    page = open_run(make(end="paused", nan_at=(150,), evaluate_every=100))
    chart = _focused(page, qtbot, "monitor_loss")
    qtbot.keyClick(chart, Qt.Key.Key_T)
    model = page.findChild(QTableView, "monitor_table").model()
    assert model.rowCount() == 300 and not chart.isVisible()
    assert [model.index(149, column).data() for column in (0, 2, 3)] == [
        "150",
        "not a number",
        "not a number",
    ]
    assert model.index(99, 4).data() == "1.363"
    click(qtbot, page, "monitor_as_charts")
    assert chart.isVisible()


def test_the_table_of_steps_is_a_sound_model(open_run, make, qtmodeltester, qtbot):
    page = open_run(make(end="paused"))
    click(qtbot, page, "monitor_as_table")
    qtmodeltester.check(page.findChild(QTableView, "monitor_table").model())


def test_what_is_shown_is_saved_as_numbers(open_run, make, app, tmp_path, qtbot):
    page = open_run(make(end="paused", nan_at=(150,), evaluate_every=100))
    page.stretch.show(100, 200)
    with qtbot.waitSignal(app.monitor.saved):
        page.export.save_table(str(tmp_path / "points.csv"))
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0].startswith("step,elapsed_s,loss,smoothed_loss,evaluation_loss")
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(100, 201))
    assert lines[51].startswith("150,240.0,nan,nan,")


def test_right_letters_stand_beside_the_evaluation_loss_and_in_the_table(
    open_run, make, app, tmp_path, qtbot
):
    page = open_run(make(end="paused", evaluate_every=100, letters=40))
    assert "75\u202f% right" in words(page, "monitor_number_evaluation")
    click(qtbot, page, "monitor_as_table")
    model = found(page, "monitor_table").model()
    assert model.index(99, 4).data().endswith(" · 75\u202f% right")
    with qtbot.waitSignal(app.monitor.saved):
        page.export.save_table(str(tmp_path / "points.csv"))
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0].endswith("right_answers,answers_asked")
    letters = {line.split(",")[0]: line.split(",")[-2:] for line in lines[1:]}
    assert (letters["200"], letters["201"]) == (["30", "40"], ["", ""])


def test_right_answers_have_a_chart_where_they_were_counted(open_run, make):
    page = open_run(make(end="paused"))
    assert not found(page, "monitor_answers_card").isVisibleTo(page)
    page = open_run(make(end="paused", evaluate_every=100, letters=40))
    assert found(page, "monitor_answers_card").isVisibleTo(page)
    assert "30 of 40 letters" in words(page, "monitor_answers_card")
    steps, shares = found(page, "monitor_right_answers")._shares.getData()
    assert (steps.tolist(), set(shares.tolist())) == ([100, 200, 300], {75.0})


def test_while_charts_are_moved_their_edges_are_not_smoothed_and_then_they_are(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    drawn = [found(page, name)._strokes for name in ("monitor_loss", "monitor_vram", "monitor_lr")]
    assert not any(strokes.fine for strokes in drawn)
    qtbot.waitUntil(lambda: all(strokes.fine for strokes in drawn))


def test_charts_that_only_grow_are_always_drawn_with_smooth_edges(training, silent, qtbot):
    hear_steps(silent, 1, 40)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    assert found(training, "monitor_loss")._strokes.fine


def test_a_picture_saved_while_charts_are_moved_has_smooth_edges(open_run, make, tmp_path):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    page.export.save_picture(str(tmp_path / "charts.png"))
    assert found(page, "monitor_loss")._strokes.fine


def test_what_is_shown_is_saved_as_a_picture_of_twice_the_pixels(open_run, make, tmp_path):
    page = open_run(make(end="paused"))
    page.export.save_picture(str(tmp_path / "charts.png"))
    assert QImage(str(tmp_path / "charts.png")).width() >= 2 * found(page, "monitor_loss").width()


def _focused(page, qtbot, name):
    """Where keys go."""
    chart = found(page, name)
    page.activateWindow()
    chart.setFocus()
    qtbot.waitUntil(chart.hasFocus)
    return chart


def _drawn(chart):
    """Points of each line."""
    return [len(values) for values in _values(chart)]


def _values(chart):
    return [line.stroke.y for line in chart._step_lines]
