"""A mixture on the Data page: dropped, weighed, looked at and taken apart, by mouse and by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QDoubleSpinBox,
    QFileDialog,
    QWidget,
)

from qlora_studio.protocol import reading
from qlora_studio.state.data_mix import WEIGHT
from tests.ui.filled_pages import Filler
from tests.ui.person import click, found, words


def cells(page: QWidget, row: int) -> list[str]:
    model = found(page, "data_mix_sets").model()
    return [model.data(model.index(row, column)) for column in range(model.columnCount())]


def weight_field(page: QWidget) -> QDoubleSpinBox:
    field = page.findChild(QDoubleSpinBox, "data_mix_weight")
    assert field is not None
    return field


def choose_set(page: QWidget, row: int) -> QAbstractItemView:
    table = found(page, "data_mix_sets")
    assert isinstance(table, QAbstractItemView)
    table.setFocus()
    table.setCurrentIndex(table.model().index(row, 0))
    return table


def focused_button(page: QWidget, name: str) -> QAbstractButton:
    """The one that is seen: those of earlier lines may still wait for their end."""
    QCoreApplication.sendPostedEvents()
    (button,) = (button for button in page.findChildren(QAbstractButton, name) if button.isVisible())
    button.setFocus(Qt.FocusReason.TabFocusReason)
    return button


def asked_paths(filler: Filler) -> list[str]:
    return [asked.data.path for asked in filler.silent.asked(reading.ImportData)]


def test_several_dropped_files_become_one_mixture(filler, qtbot, tmp_path):
    files = [tmp_path / "chats.jsonl", tmp_path / "sums.csv"]
    for file in files:
        file.write_text("{}", "utf-8")
    filler.shell.open_dropped(*files)

    qtbot.waitUntil(lambda: filler.app.data.file.asked is not None)
    assert [part.path for part in filler.app.data.file.asked.mix] == [str(file) for file in files]


def test_of_different_things_dropped_together_the_first_is_opened_and_that_is_said(filler, qtbot, tmp_path):
    (tmp_path / "chats.jsonl").write_text("{}", "utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    filler.shell.open_dropped(tmp_path / "chats.jsonl", tmp_path / "model")

    qtbot.waitUntil(lambda: asked_paths(filler) == [str(tmp_path / "chats.jsonl")])
    assert filler.app.notices.last[-1].text == "Of 2 things dropped, chats.jsonl was opened"


@pytest.mark.parametrize("button", ["data_import", "data_add"])
def test_several_files_can_be_picked_at_once(filler, qtbot, tmp_path, button):
    page = filler.data()
    click(qtbot, page, button)
    (dialog,) = page.findChildren(QFileDialog)
    assert dialog.fileMode() is QFileDialog.FileMode.ExistingFiles
    picked = [str(tmp_path / "chats.jsonl"), str(tmp_path / "sums.csv")]
    dialog.filesSelected.emit(picked)
    dialog.close()

    assert [part.path for part in filler.app.data.file.asked.mix][-2:] == picked


def test_each_data_set_has_a_line_with_name_format_rows_and_weight(filler):
    page = filler.data_mix()

    assert cells(page, 1) == ["sums.csv", "Question and answer", "7,000", "2.5", "17,500"]
    assert words(page, "data_title") == "support_replies_of_the_last_three_years.jsonl + 2 more"
    assert not found(page, "data_format").isVisible()


def test_without_a_mixture_there_is_no_list_but_a_way_to_begin_one(filler):
    page = filler.data()

    assert not page.findChild(QWidget, "data_mix").isVisible()
    assert found(page, "data_add").isVisible()


def test_a_weight_is_typed_and_taken_back(filler, qtbot):
    page = filler.data_mix()
    table = choose_set(page, 1)
    qtbot.keyClick(table, Qt.Key.Key_F2)
    field = weight_field(page)
    qtbot.keyClicks(field, "4")
    qtbot.keyClick(field, Qt.Key.Key_Return)

    assert cells(page, 1)[3:] == ["4", "28,000"]
    assert filler.app.draft.config.data.mix[1].weight == 4.0
    assert page.undo()
    assert cells(page, 1)[3:] == ["2.5", "17,500"]
    assert filler.app.draft.config.data.mix[1].weight == 2.5


def test_escape_leaves_a_weight_as_it_was(filler, qtbot):
    page = filler.data_mix()
    table = choose_set(page, 1)
    qtbot.keyClick(table, Qt.Key.Key_F2)
    field = weight_field(page)
    qtbot.keyClicks(field, "9")
    qtbot.keyClick(field, Qt.Key.Key_Escape)

    assert cells(page, 1)[3] == "2.5"


def test_a_click_on_a_weight_opens_its_field(filler, qtbot):
    page = filler.data_mix()
    table = choose_set(page, 0)
    place = table.visualRect(table.model().index(2, WEIGHT)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)

    assert weight_field(page).value() == 0.5
    assert weight_field(page).accessibleName() == "Weight of handbook.txt"


@pytest.mark.parametrize("by", ["button", "key"])
def test_a_data_set_is_taken_out_and_brought_back(filler, qtbot, by):
    page = filler.data_mix()
    table = choose_set(page, 1)
    ways = {
        "button": lambda: click(qtbot, page, "data_mix_remove"),
        "key": lambda: qtbot.keyClick(table, Qt.Key.Key_Delete),
    }
    ways[by]()

    assert [Path(part.path).name for part in filler.app.data.file.asked.mix] == [
        "support_replies_of_the_last_three_years.jsonl",
        "handbook.txt",
    ]
    assert page.undo()  # it is still on its way
    assert len(filler.app.data.data.mix) == 3


def test_the_rows_of_a_data_set_are_listed_and_say_where_they_are_from(filler, qtbot):
    page = filler.data_mix()
    choose_set(page, 1)
    click(qtbot, page, "data_mix_rows")

    assert words(page, "data_place") == "Shown: the 7,000 rows of sums.csv"
    assert filler.app.data.table.row_at(0) == 11_000


def test_below_the_list_stands_what_can_be_done_with_the_chosen_one(filler, qtbot):
    page = filler.data_mix()
    choose_set(page, 0)
    assert words(page, "data_mix_left_out") == "64 left out by its own fixes"
    choose_set(page, 2)

    assert words(page, "data_mix_name") == "handbook.txt"
    assert found(page, "data_mix_format").text() == "Plain text, guessed ▾"
    assert not found(page, "data_mix_left_out").isVisible()


def test_columns_are_those_of_the_chosen_data_set(filler, qtbot):
    page = filler.data_mix()
    choose_set(page, 1)
    click(qtbot, page, "data_mix_columns")

    assert words(page, "data_columns_file") == "sums.csv"


def test_a_fix_says_that_it_holds_for_all_data_sets(filler):
    page = filler.data_mix()

    assert words(page, "data_fixes_of_all").startswith("A fix holds for all 3 data sets, or with “Only in”")
    only = found(page, "data_fix_set_near_duplicates")
    assert only.text() == "Only in support_replies_of_the_…"
    assert only.isVisibleTo(page)
    filler.app.data.choose_part(1)
    assert not found(page, "data_fix_set_near_duplicates").isVisibleTo(page)
    assert "64 copies were left out" in words(page, "data_findings")


def test_a_data_set_that_is_there_already_is_not_added_and_that_is_said(filler):
    page = filler.data_mix()
    page._add(["/data/sums.csv"])

    assert filler.app.notices.last[-1].text == (
        "sums.csv is among these rows already: raise its weight instead"
    )
    assert asked_paths(filler) == []


def test_of_chats_and_texts_the_texts_alone_are_said_to_be_split(filler, qtbot):
    page = filler.data_mix()
    filler.app.draft.set("data.seq_len", 4_096)
    qtbot.waitUntil(lambda: words(page, "data_cost") == "Only texts may be longer: they are split")


# The doctor by keyboard


def test_enter_does_the_fix_that_has_the_focus(filler, qtbot):
    page = filler.data_doctor()
    fix = focused_button(page, "data_fix_contradictions")
    qtbot.keyClick(fix, Qt.Key.Key_Return)

    assert [fix.kind for fix in filler.app.data.file.asked.recipe] == ["near_duplicates", "contradictions"]


def test_after_a_fix_the_keyboard_goes_on_at_the_next_finding(filler, qtbot):
    page = filler.data_doctor()
    fix = focused_button(page, "data_fix_near_duplicates")
    qtbot.keyClick(fix, Qt.Key.Key_Return)
    assert found(page, "data_findings").hasFocus()  # buttons wait for the rows
    filler.app.data.file.stop()

    assert QApplication.focusWidget().objectName() == "data_show_near_duplicates"


def test_escape_leaves_the_doctor_for_the_rows(filler):
    page = filler.data_doctor()
    focused_button(page, "data_show_secrets")

    assert page.escape()
    assert found(page, "data_rows").hasFocus()
