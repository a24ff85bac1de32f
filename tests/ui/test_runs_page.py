"""Runs: found, compared, named, checked, and put into the bin."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import (
    QCheckBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from qlora_studio.config.places import sweeps_folder
from qlora_studio.config.run_config import RunConfig
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, reading
from qlora_studio.protocol.sweep_plan import new_sweep
from qlora_studio.runs.lock import RunLock
from qlora_studio.runs.notes import read_notes
from qlora_studio.runs.sweep import with_run, write_sweep
from qlora_studio.state.runs_table import MOST_CHOSEN, NAMES
from qlora_studio.ui.pages.runs import RunsPage
from tests.own_bin import use_own_bin
from tests.ui.example_runs import Example, make_run
from tests.ui.person import click, found, words

NAME, STATE, LOSS, TAGS = (NAMES.index(name) for name in ("Name", "State", "Eval loss", "Tags"))


@pytest.fixture(autouse=True)
def own_bin(monkeypatch, tmp_path):
    use_own_bin(monkeypatch, tmp_path / "data")


@pytest.fixture
def make(home):
    return lambda **fields: make_run(
        home / "runs", Example(**{"steps": 200, "total_steps": 400, "end": "finished", **fields})
    )


@pytest.fixture
def three(make):
    """Newest last made, as their names order them."""
    return {
        "r64": make(name="support-r64", loss=0.9, tags=("support", "keep")),
        "r16": make(name="support-r16", loss=0.95, changes={"lora.r": 16}),
        "gsm8k": make(name="gsm8k-r8", model="SmolLM2-135M", loss=0.5, end="paused", tags=("maths",)),
    }


@pytest.fixture
def open_page(app, qtbot):
    def open_runs():
        page = RunsPage(app)
        qtbot.addWidget(page)
        page.resize(1440, 860)
        page.show()
        page.activateWindow()  # keys reach the active window only
        qtbot.waitUntil(page.isActiveWindow)
        page.opened(None)
        qtbot.waitUntil(lambda: app.runs.loaded)
        page.activateWindow()
        qtbot.waitUntil(page.isActiveWindow)
        return page

    return open_runs


def test_the_table_is_a_sound_model(app, three, open_page, qtmodeltester):
    open_page()
    qtmodeltester.check(app.runs.table)


def test_without_a_run_the_sample_run_is_offered(open_page, silent, asked, qtbot):
    page = open_page()
    click(qtbot, page, "runs_start_sample")
    assert silent.said(commands.MakeSampleModel)
    assert asked == [("monitor", None)]


def test_each_run_is_a_row_with_its_state_in_words(three, open_page):
    page = open_page()
    assert sorted(_column(page, NAME)) == ["gsm8k-r8", "support-r16", "support-r64"]
    assert _shown(page, "gsm8k-r8", STATE) == "Paused"
    assert _shown(page, "support-r64", STATE) == "Finished"


def test_a_broken_run_hides_no_other_and_says_why(three, home, open_page):  # R6
    broken = home / "runs" / "2026-01-01-broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    page = open_page()
    assert len(_column(page, NAME)) == 4
    _choose_row(page, "2026-01-01-broken")
    assert "run.json is damaged" in page.findChild(QLabel, "runs_about").text()


def test_a_run_that_another_window_trains_is_open_elsewhere(make, open_page):  # R8
    folder = make(name="theirs", end="running")
    with RunLock(folder):
        page = open_page()
        assert _shown(page, "theirs", STATE) == "Open elsewhere"


def test_search_keeps_rows_with_every_word(three, open_page, qtbot):
    page = open_page()
    qtbot.keyClicks(page.findChild(QLineEdit, "runs_search"), "smollm2 maths")
    assert _column(page, NAME) == ["gsm8k-r8"]


def test_a_tag_filters(three, open_page, qtbot):
    page = open_page()
    chip = next(chip for chip in page.findChildren(QPushButton) if chip.text() == "maths")
    qtbot.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert _column(page, NAME) == ["gsm8k-r8"]
    qtbot.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert len(_column(page, NAME)) == 3


def test_rows_are_sorted_by_the_number_not_by_its_words(make, open_page):
    for name, steps in (("a", 900), ("b", 10_000), ("c", 5)):
        make(name=name, steps=steps, total_steps=10_000, evaluate_every=20_000, checkpoints=False)
    page = open_page()
    _table(page).sortByColumn(NAMES.index("Time"), Qt.SortOrder.AscendingOrder)
    assert _column(page, NAME) == ["c", "a", "b"]


def test_space_chooses_a_run_and_its_curve_appears(three, open_page, app, qtbot):
    page = open_page()
    for name in ("support-r64", "support-r16"):
        _choose_row(page, name)
        qtbot.keyClick(_table(page), Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: all(run.points is not None for run in app.runs.compared()))
    chart = page.findChild(QWidget, "runs_compare_chart")
    qtbot.waitUntil(lambda: all(name in chart.accessibleDescription() for name in ("r64", "r16")))
    assert page.findChild(QLabel, "runs_chosen").text() == "2 of 3 chosen"


def test_the_best_of_the_chosen_says_best(three, open_page, app):
    page = open_page()
    _compare(app, three["r64"], three["r16"])
    assert _shown(page, "support-r64", LOSS).endswith(" best")
    assert not _shown(page, "support-r16", LOSS).endswith("best")


def test_no_more_than_six_are_compared(make, open_page, app):
    folders = [make(name=f"run-{number}", steps=2, checkpoints=False) for number in range(MOST_CHOSEN + 1)]
    open_page()
    _compare(app, *folders)
    assert len(app.runs.table.chosen) == MOST_CHOSEN


@pytest.mark.parametrize("metric", ["evaluation", "loss", "learning_rate", "grad_norm", "memory"])
@pytest.mark.parametrize("axis", ["steps", "tokens", "time"])
def test_every_metric_is_drawn_over_every_axis(three, open_page, app, qtbot, metric, axis):
    page = open_page()
    _compare(app, three["r64"])
    qtbot.waitUntil(lambda: app.runs.compared()[0].points is not None)
    page.findChild(QWidget, "runs_metric").set_value(metric)
    click(qtbot, page, f"runs_axis_{axis}")
    chart = page.findChild(QWidget, "runs_compare_chart")
    assert "support-r64" in chart.accessibleDescription()


def test_the_axes_tell_the_range_in_sight_however_often_the_same_runs_are_shown(three, open_page, app, qtbot):
    page = open_page()
    chart = page.findChild(QWidget, "runs_compare_chart")
    app.runs.table.toggle(0)
    qtbot.waitUntil(lambda: all(item.points is not None for item in app.runs.compared()))

    chart.show_runs(app.runs.compared(), "evaluation", "steps")
    chart.show_runs(app.runs.compared(), "evaluation", "steps")

    in_sight = chart.box.viewRange()
    axes = [chart.axes[side].range for side in ("bottom", "left")]
    assert in_sight[0][1] > 100
    assert [list(axis) for axis in axes] == [list(span) for span in in_sight]


def test_what_differs_is_shown_or_everything(three, open_page, app, qtbot):
    page = open_page()
    _compare(app, three["r64"], three["r16"])
    assert "Rank" in _differences(page) and "Alpha" not in _differences(page)
    qtbot.mouseClick(page.findChild(QCheckBox, "runs_diff_only"), Qt.MouseButton.LeftButton, pos=_tick(page))
    assert "Alpha" in _differences(page)


def test_what_differs_is_copied_as_a_table(three, open_page, app, qtbot):
    page = open_page()
    _compare(app, three["r64"], three["r16"])
    click(qtbot, page, "runs_diff_copy")
    assert "Rank\t64\t16" in QGuiApplication.clipboard().text()


def test_enter_opens_a_run(three, open_page, asked, qtbot):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    qtbot.keyClick(_table(page), Qt.Key.Key_Return)
    assert asked == [("monitor", three["gsm8k"])]


def test_a_run_is_resumed_from_the_list(three, open_page, asked, silent):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    _do(page, "resume")
    assert silent.asked(reading.CheckResume)[0].run == str(three["gsm8k"])
    assert asked == [("monitor", three["gsm8k"])]


def test_a_finished_run_says_why_it_cannot_go_on(three, open_page, app, silent):
    page = open_page()
    _choose_row(page, "support-r64")
    page.menu.aboutToShow.emit()
    action = _action(page, "resume")
    assert not action.isEnabled() and "is finished" in action.text()


def test_its_settings_go_into_the_draft_of_the_next_run(three, open_page, app, asked):
    page = open_page()
    _choose_row(page, "support-r16")
    _do(page, "copy")
    assert app.draft.value("lora.r") == 16
    assert asked == [("train", None)]


def test_a_run_with_an_adapter_is_trained_on(three, open_page, app, asked):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    page.menu.aboutToShow.emit()
    assert "it has no adapter yet" in _action(page, "train_on").text()
    _choose_row(page, "support-r16")
    page.menu.aboutToShow.emit()
    _do(page, "train_on")
    assert app.draft.value("lora.start_from") == str(three["r16"])
    assert app.draft.value("lora.r") == 16
    assert asked == [("train", None)]


def test_f2_renames(three, open_page, qtbot):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    qtbot.keyClick(_table(page), Qt.Key.Key_F2)
    _type(page, qtbot, "maths, rank 8")
    qtbot.waitUntil(lambda: "maths, rank 8" in _column(page, NAME))
    assert read_notes(three["gsm8k"]).name == "maths, rank 8"


def test_tags_are_words_between_commas(three, open_page, qtbot):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    qtbot.keyClick(_table(page), Qt.Key.Key_T, Qt.KeyboardModifier.ControlModifier)
    _type(page, qtbot, "maths, keep , keep")
    qtbot.waitUntil(lambda: read_notes(three["gsm8k"]).tags == ("maths", "keep"))


def test_a_note_is_kept_and_found(three, open_page, qtbot):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    _do(page, "note")
    _type(page, qtbot, "lost the thread at step 40")
    qtbot.waitUntil(lambda: read_notes(three["gsm8k"]).note != "")
    qtbot.waitUntil(lambda: "lost the thread" in page.findChild(QLabel, "runs_about").text())


def test_checking_names_the_damaged_file(three, open_page, qtbot):  # R2
    (three["gsm8k"] / "checkpoints" / "step-000200" / "optimizer.safetensors").write_bytes(b"")
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    _do(page, "check")
    qtbot.waitUntil(lambda: "Step 200 is damaged: optimizer.safetensors" in page.banner.text())


def test_checking_a_sound_run_says_so(three, open_page, qtbot):
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    _do(page, "check")
    qtbot.waitUntil(lambda: "1 checkpoint is sound" in page.banner.text())


def test_a_run_goes_to_the_bin_and_comes_back(three, open_page, app, qtbot):  # R11
    page = open_page()
    _choose_row(page, "gsm8k-r8")
    qtbot.keyClick(_table(page), Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: len(_column(page, NAME)) == 2)
    assert not three["gsm8k"].exists()
    app.notices.last[-1].undo()
    qtbot.waitUntil(lambda: len(_column(page, NAME)) == 3)


def test_a_run_in_training_never_goes_to_the_bin(make, open_page, qtbot):  # R11
    folder = make(name="live", end="running")
    with RunLock(folder):
        page = open_page()
        _choose_row(page, "live")
        qtbot.keyClick(_table(page), Qt.Key.Key_Delete)
        qtbot.wait(100)
        assert folder.exists()


def test_the_list_is_exported_as_it_is_shown(three, open_page, tmp_path, qtbot):
    page = open_page()
    page.search.setText("support")
    page.save_list(str(tmp_path / "runs.csv"))
    qtbot.waitUntil((tmp_path / "runs.csv").exists)
    qtbot.waitUntil(lambda: len((tmp_path / "runs.csv").read_text().splitlines()) == 3)


def test_new_run_opens_train(three, open_page, asked, qtbot):
    page = open_page()
    click(qtbot, page, "runs_new")
    assert asked == [("train", None)]


def test_columns_come_by_the_header_and_names_are_plain(make, open_page):  # S8
    make(name="<b>bold</b>\u202egnp")
    page = open_page()
    name = _shown(page, "<b>bold</b>\u202egnp", NAME)
    assert "<b>bold</b>" in name and "\u202e" not in name
    assert _table(page).isColumnHidden(NAMES.index("Started"))


def test_every_key_of_the_page_stands_in_its_menu(open_page):
    keys = {action.shortcut().toString() for action in open_page().menu.actions()}
    assert {"Space", "Ctrl+R", "Ctrl+T", "F2", "Del"} <= keys


def _table(page) -> QTableView:
    return page.findChild(QTableView, "runs_table")


def _column(page, column):
    model = _table(page).model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def _row(page, name):
    return _column(page, NAME).index(name)


def _shown(page, name, column):
    """As the cell is painted."""
    table, option = _table(page), QStyleOptionViewItem()
    table.itemDelegate().initStyleOption(option, table.model().index(_row(page, name), column))
    return option.text


def _choose_row(page, name):
    table = _table(page)
    table.setFocus()
    table.setCurrentIndex(table.model().index(_row(page, name), NAME))


def _compare(app, *folders):
    for folder in folders:
        app.runs.table.toggle(app.runs.table.row_of(folder))


def _differences(page):
    model = page.findChild(QTableView, "runs_diff").model()
    return [model.index(row, 0).data() for row in range(model.rowCount())]


def _tick(page):
    box = page.findChild(QCheckBox, "runs_diff_only")
    return box.rect().center() - box.rect().topLeft() - (box.rect().center() - box.rect().topLeft()) / 2


def _type(page, qtbot, text):
    qtbot.waitUntil(lambda: _table(page).viewport().findChild(QLineEdit) is not None)
    editor = _table(page).viewport().findChild(QLineEdit)
    editor.selectAll()
    qtbot.keyClicks(editor, text)
    qtbot.keyClick(editor, Qt.Key.Key_Return)


def _action(page, key):
    return page.findChild(QAction, f"runs_action_{key}")


def _do(page, key):
    _action(page, key).trigger()


@pytest.fixture
def compared(app, make):
    """A comparison of ranks, two of its six runs finished."""
    sweep = new_sweep(
        RunConfig(), known_shape("llama-7b"), over="ranks", runs_dir=app.preferences.runs_folder
    )
    for place, loss in enumerate((0.95, 0.9)):
        run = make(name=f"rank-{place}", loss=loss, steps=40, total_steps=40, evaluate_every=20)
        sweep = with_run(sweep, place, str(run))
    write_sweep(sweeps_folder() / "2026-11-24-ranks", sweep)
    return sweep


def test_without_a_comparison_there_is_no_card_of_one(three, open_page):
    assert not found(open_page(), "runs_sweep").isVisible()


def test_a_comparison_says_how_far_it_is_and_its_runs_are_laid_over_each_other(
    app, compared, open_page, qtbot
):
    page = open_page()
    qtbot.waitUntil(found(page, "runs_sweep").isVisible)
    shown = words(page, "runs_sweep")
    assert shown.startswith("Rank: sample 2 of 6 runs finished")
    assert "r = 8 1.458" in shown
    assert "r = 16 1.408 -0.050" in shown
    assert "r = 256" in shown
    assert not found(page, "runs_sweep_stop").isVisible()
    click(qtbot, page, "runs_sweep_lay_over")
    assert [item.run.name for item in app.runs.compared()] == ["rank-0", "rank-1"]


def test_a_comparison_goes_on_with_the_next_run_and_is_stopped(app, compared, open_page, silent, qtbot):
    page = open_page()
    qtbot.waitUntil(found(page, "runs_sweep").isVisible)
    click(qtbot, page, "runs_sweep_go_on")
    qtbot.waitUntil(lambda: app.launcher.busy)
    assert "now r = 32, seed 0" in words(page, "runs_sweep_words")
    assert not found(page, "runs_sweep_go_on").isVisible()
    click(qtbot, page, "runs_sweep_stop")
    assert not app.launcher.busy
    assert words(page, "runs_sweep_words") == "2 of 6 runs finished"
