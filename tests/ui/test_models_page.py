"""Models: added, found, checked and taken for training, as a person does it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.models.quantization_report import report_file
from qlora_studio.protocol import commands, events, reading
from qlora_studio.ui.pages.models import ModelsPage
from tests.state.reports import model_report, quantization_report
from tests.ui.person import click, found, words

HOSTILE = "<b>bold</b>\u202egpj.exe"

pytestmark = pytest.mark.usefixtures("no_card")


@pytest.fixture
def page(app, qtbot):
    page = ModelsPage(app)
    qtbot.addWidget(page)
    page.resize(1200, 800)
    page.show()
    page.opened(None)
    qtbot.waitUntil(lambda: app.models.entry() is not None)
    return page


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    return path


@pytest.fixture
def added(page, silent, folder):
    page.opened(folder)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    return page


def test_at_first_the_sample_is_ready_to_be_used(page, app, asked, qtbot):
    assert "Comes with the application" in words(page, "models_detail")
    click(qtbot, page, "models_use")
    assert app.draft.config.model.path == SAMPLE
    assert asked == [("train", None)]


def test_a_folder_is_added_checked_and_used(page, app, silent, folder, asked, qtbot, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    click(qtbot, page, "models_add_folder")
    assert "Checking" in words(page, "models_detail")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    assert "135 M parameters, llama family, with a chat template" in words(page, "models_detail")
    assert words(page, "models_folder") == str(folder)
    click(qtbot, page, "models_use")
    assert app.draft.config.model.path == str(folder)
    assert asked == [("train", None)]


def test_a_folder_that_is_dropped_is_chosen_in_the_table(added):
    table = found(added, "models_table")
    assert table.currentIndex().data() == "tiny"


def test_what_can_not_be_used_says_why_beside_the_button(page, silent, folder, asked, qtbot):  # S1, S3
    page.opened(folder)
    silent.refuse(
        reading.CheckModel,
        f"{folder}: Only safetensors files are read.",
        "Look for a safetensors version.",
    )
    assert "Look for a safetensors version." in words(page, "models_detail")
    assert not found(page, "models_use").isEnabled()
    assert not found(page, "models_needs").isVisible()
    qtbot.keyClick(found(page, "models_table"), Qt.Key.Key_Return)
    assert asked == []


def test_warnings_are_said_first(page, silent, folder):
    page.opened(folder)
    report = model_report(folder, warnings=("This model comes with its own code. It was not run.",))
    silent.answer(reading.CheckModel, reading.ModelChecked, report=report)
    assert words(page, "models_detail").index("own code") < words(page, "models_detail").index("llama")


def test_what_training_needs_is_told_for_each_preset(added):
    shown = words(added, "models_needs")
    for preset in ("QLoRA paper", "Gentle tone change", "New skill", "Smallest memory"):
        assert preset in shown
    assert shown.count("GiB") == 5


def test_a_word_finds_a_model_and_escape_shows_all(added, qtbot):
    table = found(added, "models_table")
    added.search.setFocus()
    qtbot.keyClicks(added.search, "tin")
    assert table.model().rowCount() == 1
    qtbot.keyClicks(added.search, "xyz")
    assert found(added, "models_nothing_found").isVisible()
    click(qtbot, added, "models_show_all")
    assert table.model().rowCount() == 2
    assert table.isVisible()


def test_a_model_is_taken_off_the_list_and_comes_back(added, app, silent, qtbot):
    click(qtbot, added, "models_forget")
    notice = app.notices.last[-1]
    assert notice.text == "tiny is off the list; its folder stays."
    assert not found(added, "models_forget").isVisible()
    notice.undo()
    assert app.models.entry().name == "tiny"
    assert silent.asked(reading.CheckModel)


def test_the_delete_key_takes_it_off_too(added, app, qtbot):
    table = found(added, "models_table")
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    assert [entry.name for entry in app.models.table.entries] == ["SmolLM2-135M-Instruct"]


def test_a_model_is_checked_again_on_demand(added, silent, folder, qtbot):
    click(qtbot, added, "models_check")
    assert silent.asked(reading.CheckModel)[0].folder == str(folder)
    silent.refuse(reading.CheckModel, f"{folder}/config.json is gone.")
    assert "config.json is gone" in words(added, "models_detail")


def test_the_sample_is_unpacked_on_demand(page, silent, qtbot):
    click(qtbot, page, "models_unpack_sample")
    assert silent.said(commands.MakeSampleModel)
    assert not found(page, "models_unpack_sample").isVisible()


def test_names_from_outside_are_shown_as_plain_text(page, silent, tmp_path):  # S8
    page.opened(tmp_path / "x")
    silent.refuse(reading.CheckModel, HOSTILE)
    shown = words(page, "models_detail")
    assert "<b>bold</b><U+202E>gpj.exe" in shown


def test_a_model_that_home_names_is_shown(added, app):
    added.opened(SAMPLE)
    assert app.models.chosen == SAMPLE
    added.opened(Path(app.preferences.values.models[0]))
    assert app.models.entry().name == "tiny"


@pytest.fixture
def measured(added, app, folder, qtbot):
    kept = report_file(folder)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(msgspec.json.encode(quantization_report()))
    added.rescan()
    qtbot.waitUntil(lambda: app.quantization.report is not None)
    return added


def test_what_few_bits_do_is_measured_on_a_click(added, silent, folder, qtbot):
    assert "Nothing is trained" in words(added, "models_quantization")
    assert not found(added, "models_lab_found").isVisibleTo(added)
    click(qtbot, added, "models_lab_all_blocks")
    click(qtbot, added, "models_lab_measure")
    qtbot.waitUntil(lambda: bool(silent.said(commands.MeasureQuantization)))
    command = silent.last_said(commands.MeasureQuantization)
    assert (command.model, command.prepared, len(command.block_sizes)) == (str(folder), "", 8)
    silent.hear(events.LoadingProgress(done=3, total=14, words="Rounding the layers of tiny"))
    assert words(added, "models_lab_doing") == "Rounding the layers of tiny 3 of 14"
    assert not found(added, "models_lab_measure").isEnabled()
    click(qtbot, added, "models_lab_stop")
    assert silent.last_said(commands.StopMeasuring).id == command.id


def test_a_text_for_the_perplexity_is_chosen(added, silent, monkeypatch, qtbot):
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("/data/some.txt", ""))
    click(qtbot, added, "models_lab_text")
    assert silent.asked(reading.PrepareText)[0].path == "/data/some.txt"
    silent.refuse(reading.PrepareText, "/data/some.txt is empty.", "Choose another.")
    assert words(added, "models_lab_problem") == "/data/some.txt is empty. Choose another."


def test_errors_perplexities_and_claims_are_shown(measured):
    shown = words(measured, "models_lab_found")
    assert "NF4 + DQ 4.13 8.0%" in shown
    assert "16 bit 16.00" in shown
    assert "Double quantization saves 0.373 bits a weight: holds." in shown
    assert "FP4 has a lower perplexity than INT4 at the same size: does not hold here." in shown
    assert "No layer loses far more than the others." in shown
    assert "4,096 tokens of some.txt" in shown
    assert "values of NF4 at -1.00, -0.88" in found(measured, "models_lab_levels").accessibleDescription()


def test_tables_and_pictures_are_saved_where_one_says(measured, app, tmp_path, monkeypatch, qtbot):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    with qtbot.waitSignal(app.quantization.saved):
        click(qtbot, measured, "models_lab_save")
    assert (tmp_path / "tiny-quantization" / "layers.csv").is_file()
    assert app.notices.last[-1].text == f"Saved in {tmp_path / 'tiny-quantization'}."
