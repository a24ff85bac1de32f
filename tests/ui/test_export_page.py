"""Export: what, as what and where to, told before; checked after; stopped in place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QApplication, QFileDialog

from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.checkpoints import save_checkpoint
from qlora_studio.runs.run_state import read_state, write_state
from qlora_studio.ui.pages.export import ExportPage
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import Example, make_run
from tests.ui.person import click, found, words

MODEL = "/models/tiny"
PARTED = events.FirstDifference(prompt=3, token=9, wanted='" 18"', found='" 16"', times_likelier=1.02)


@pytest.fixture
def runs(app):
    """Two finished runs, the newest last."""
    return [_make_run(app, name) for name in ("support", "support-again")]


@pytest.fixture
def open_page(app, qtbot):
    def open_page(what=None):
        page = ExportPage(app)
        qtbot.addWidget(page)
        page.resize(1300, 900)
        page.show()
        page.opened(what)
        qtbot.waitUntil(lambda: app.export.sources is not None)
        return page

    return open_page


@pytest.fixture
def page(app, runs, open_page, silent, qtbot):
    """Opened for the first run, its model checked."""
    page = open_page(runs[0])
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    return page


@pytest.fixture
def writing(page, silent, qtbot):
    """The engine was told to write."""
    click(qtbot, page, "export_start")
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    while silent.asked(reading.EncodeChat):
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    return page


def test_before_any_run_finished_the_page_names_the_step_before(open_page, asked, qtbot):
    page = open_page()
    assert "No finished run" in words(page, "export_empty")
    middle = found(page, "export_empty").mapTo(page, found(page, "export_empty").rect().center()).x()
    assert abs(middle - page.width() / 2) < 30  # nothing stands beside it
    assert not found(page, "export_kind").isVisibleTo(page)
    assert not found(page, "export_start").isEnabled()
    click(qtbot, page, "export_to_runs")
    assert asked == [("runs", None)]


def test_the_run_that_was_asked_for_is_chosen(page):
    assert found(page, "export_run").currentText() == "support"
    assert words(page, "export_source") == "Run Finished tiny · rank 64 · step 20 · evaluation loss 1.424"


def test_sizes_room_and_prompts_are_told_before_the_start(page):
    assert words(page, "export_size_adapter") == "5\u202fkB"
    assert words(page, "export_size_merged") == "about 311\u202fMB"
    assert words(page, "export_room").startswith("Needs 5\u202fkB, ")
    assert words(page, "export_prompt_list").endswith("and 4 more")


def test_another_run_is_chosen_from_the_list(page, app, silent, runs, qtbot):
    box = found(page, "export_run")
    box.setCurrentIndex(box.findText("support-again"))
    box.activated.emit(box.currentIndex())
    assert app.export.source.folder == runs[1]
    qtbot.waitUntil(lambda: "support-again-adapter" in found(page, "export_folder").text())


def test_a_checkpoint_is_chosen_from_the_list_the_best_one_named(page, app, runs, qtbot):
    save_checkpoint(runs[0], 10, lambda staging: (staging / "trainer.json").write_bytes(b"{}"))
    app.export.refresh()
    box = found(page, "export_checkpoint")
    qtbot.waitUntil(lambda: box.isVisible())
    assert [box.itemText(at) for at in range(box.count())] == [
        "step 20, finished, best evaluation",
        "step 10",
    ]
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert app.export.checkpoint == 10


def test_a_run_that_was_stopped_is_not_called_finished(page, app, runs, qtbot):
    was = read_state(runs[0]).state
    write_state(runs[0], msgspec.structs.replace(was, state="stopped"))
    save_checkpoint(runs[0], 10, lambda staging: (staging / "trainer.json").write_bytes(b"{}"))
    app.export.refresh()
    box = found(page, "export_checkpoint")
    qtbot.waitUntil(lambda: box.isVisible())
    assert box.itemText(0) == "step 20, stopped, best evaluation"


def test_merged_is_chosen_and_its_folder_follows(page, qtbot):
    click(qtbot, page, "export_kind_merged")
    qtbot.waitUntil(lambda: found(page, "export_folder").text().endswith("-support-merged"))
    assert words(page, "export_room").startswith("Needs 311\u202fMB")


def test_a_merged_model_is_chosen_in_4_bit(page, app, qtbot):
    assert not found(page, "export_merged_quant").isVisibleTo(page)
    click(qtbot, page, "export_kind_merged")
    box = found(page, "export_merged_quant")
    assert box.isVisibleTo(page)
    assert box.currentText().startswith("16 bit")
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert app.export.merged_quant == "nf4"
    assert words(page, "export_size_merged") == "about 158\u202fMB"


def test_a_gguf_is_chosen_with_the_numbers_it_stores(page, app, qtbot):
    assert not found(page, "export_quant").isVisibleTo(page)
    click(qtbot, page, "export_kind_gguf")
    box = found(page, "export_quant")
    assert box.isVisibleTo(page)
    assert box.currentText().startswith("8 bit (Q8_0)")
    in_8_bit = words(page, "export_size_gguf")
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert app.export.quant == "f16"
    assert words(page, "export_size_gguf") != in_8_bit


def test_a_folder_that_exists_is_refused_where_it_is_typed(page, tmp_path, qtbot):
    _type(qtbot, page, str(tmp_path))
    qtbot.waitUntil(lambda: "exists already" in words(page, "export_folder_problem"))
    assert words(page, "export_waits_for") == words(page, "export_folder_problem")
    assert not found(page, "export_start").isEnabled()


def test_a_folder_is_chosen_by_its_parent(page, app, tmp_path, qtbot, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    name = Path(app.export.place.folder).name
    click(qtbot, page, "export_choose_folder")
    assert found(page, "export_folder").text() == str(tmp_path / name)


def test_the_button_exports_and_checks(writing, app, silent):
    command = silent.last_said(commands.Export)
    assert (command.to, command.out) == ("adapter", app.export.place.folder)
    for name in ("export_run", "export_kind_merged", "export_folder", "export_choose_folder"):
        assert not found(writing, name).isEnabled()
    assert not found(writing, "export_start").isVisibleTo(writing)
    assert writing.window().focusWidget() is writing  # and not the rail, which comes next


def test_stage_bytes_and_time_are_shown(writing, silent, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("qlora_studio.state.export.time.monotonic", lambda: now[0])
    _progress(silent, "Writing model.safetensors", 0)
    now[0] += 10
    _progress(silent, "Writing model.safetensors", 120_000_000)
    assert words(writing, "export_progress") == (
        "Writing model.safetensors 120\u202fMB of 269\u202fMB · about 12\u202fs left"
    )
    assert found(writing, "export_bar").share() == pytest.approx(120 / 269)


def test_what_agrees_gets_the_tick_with_its_figures(writing, app, silent, tmp_path, qtbot, monkeypatch):
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", opened.append)
    _finish(silent, tmp_path / "out", agreement=0.984)
    shown = words(writing, "export_report")
    for part in ("Verified, 98.4\u202f% of tokens agree.", "transformers", "0.0300", "0.00200", "KL 0.002"):
        assert part in shown
    assert not found(writing, "export_progress").isVisibleTo(writing)
    click(qtbot, writing, "export_open_folder")
    assert opened == [QUrl.fromLocalFile(str(tmp_path / "out"))]


def test_what_llama_cpp_answers_is_said(writing, silent, tmp_path):
    ran = events.RunByLlamaCpp(
        with_="llama.cpp (xllamacpp 1)",
        token_agreement=0.992,
        max_logprob_drift=0.1,
        same_replies=7,
        first_difference=PARTED,
    )
    _finish(silent, tmp_path / "out", agreement=0.984, run=ran)
    assert words(writing, "export_llama_cpp") == (
        "Run by llama.cpp (xllamacpp 1): 99.2\u202f% of the tokens agree, 7 of 8 replies are the same. "
        + PARTED.words
    )


def test_where_a_reply_first_differs_both_tokens_stand_side_by_side(writing, silent, tmp_path):
    _finish(silent, tmp_path / "out", agreement=0.9, same_replies=6, first_difference=PARTED)
    assert words(writing, "export_first_difference") == (
        'The furthest first difference is token 9 of prompt 3: " 16" instead of " 18", '
        "which the trained model finds 1.02 times as likely."
    )
    assert "Replies that are the same 6" in words(writing, "export_report")


def test_a_line_for_another_program_is_copied(writing, app, silent, tmp_path, qtbot):
    folder = str(tmp_path / "a folder")
    _finish(silent, folder, agreement=1.0)
    assert "transformers" in words(writing, "export_elsewhere")
    click(qtbot, writing, "export_line_1_copy")
    assert QApplication.clipboard().text() == f"vllm serve '{folder}'"
    assert app.notices.last[-1].text == "Copied for vLLM"


def test_before_an_export_no_line_is_ready(page):
    assert not found(page, "export_elsewhere").isVisibleTo(page)


def test_equal_replies_have_no_first_difference(writing, silent, tmp_path):
    _finish(silent, tmp_path / "out", agreement=1.0, same_replies=8)
    assert not found(writing, "export_first_difference").isVisibleTo(writing)


def test_what_differs_is_said_and_the_limit_is_the_persons(writing, silent, tmp_path):
    _finish(silent, tmp_path / "out", agreement=0.96)
    assert "Verified, 96.0\u202f% of tokens agree." in words(writing, "export_report")
    found(writing, "export_limit").setValue(98)
    assert "Written, but it differs: 96.0\u202f% of the tokens agree" in words(writing, "export_report")


def test_another_template_in_the_file_is_said_and_gets_no_tick(writing, silent, tmp_path):
    problem = "The chat template in the file is another one than in training."
    _finish(silent, tmp_path / "out", agreement=1.0, problems=(problem,))
    shown = words(writing, "export_report")
    assert "Written, but it differs: 100.0\u202f% of the tokens agree with the trained model." in shown
    assert problem in shown


def test_beside_a_gguf_the_modelfile_is_spoken_of(page, silent, tmp_path, qtbot):
    click(qtbot, page, "export_kind_gguf")
    click(qtbot, page, "export_start")
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    while silent.asked(reading.EncodeChat):
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.answer(reading.MakeModelfile, reading.ModelfileMade, text="T", notes="The same text of 5 chats.")
    _finish(silent, tmp_path / "out", agreement=1.0)
    assert words(page, "export_modelfile") == "The same text of 5 chats."


def test_stop_asks_in_place_and_leaves_nothing(writing, app, silent, qtbot):
    click(qtbot, writing, "export_stop")
    question = _popup("export_stop_popover")
    assert not silent.said(commands.StopExport)
    qtbot.mouseClick(question.yes, Qt.MouseButton.LeftButton)
    stop = silent.last_said(commands.StopExport)
    assert not found(writing, "export_stop").isEnabled()
    silent.hear(events.CommandFailed(id=stop.id, error=Problem("Stopped.")))
    assert app.notices.last[-1].text == "Export stopped, nothing was left behind"
    assert found(writing, "export_start").isEnabled()
    assert writing.banner.isHidden()


def test_escape_asks_too_and_going_on_changes_nothing(writing, silent, qtbot):
    assert writing.escape()
    question = _popup("export_stop_popover")
    qtbot.mouseClick(question.no, Qt.MouseButton.LeftButton)
    assert not silent.said(commands.StopExport)


def test_what_fails_stands_in_the_banner_until_it_is_read(writing, app, silent):
    command = silent.last_said(commands.Export)
    problem = Problem("Could not save: 1.2 GB is missing on the disk of /data.", "Free some space.")
    silent.hear(events.CommandFailed(id=command.id, error=problem))
    assert writing.banner.text() == f"{problem.message} {problem.hint}"
    found(writing, "banner_close").click()
    app.export.changed.emit()
    assert writing.banner.isHidden()


def test_a_training_run_is_named_and_can_be_paused(page, app, silent, qtbot):
    app.engine.train(Path("/runs/other-run"))
    assert words(page, "export_waits_for") == "other-run is training and holds the device."
    assert not found(page, "export_start").isEnabled()
    click(qtbot, page, "export_pause_training")
    assert silent.said(commands.PauseTraining)


def test_control_and_enter_exports(page, app, qtbot):
    page.setFocus()
    qtbot.keyClick(page, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert app.export.busy


def test_fewer_prompts_are_asked_where_that_is_wanted(page, silent, qtbot):
    found(page, "export_prompts").setValue(2)
    click(qtbot, page, "export_start")
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    for _ in range(2):
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    assert len(silent.last_said(commands.Export).prompts) == 2


def _make_run(app, name):
    example = Example(
        name=name,
        model="tiny",
        steps=20,
        evaluate_every=10,
        end="finished",
        checkpoints=False,
        changes={"model.path": MODEL},
    )
    folder = make_run(app.preferences.runs_folder, example)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 5_000)
    return folder


def _type(qtbot, page, text):
    field = found(page, "export_folder")
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, text)


def _progress(silent, stage, done):
    command = silent.last_said(commands.Export)
    silent.hear(events.ExportProgress(id=command.id, words=stage, done=done, total=269_000_000))


def _finish(silent, folder, agreement, problems=(), **found):
    verified = events.Verification(
        with_="transformers",
        prompts=8,
        token_agreement=agreement,
        mean_kl=0.002,
        max_logprob_drift=0.03,
        passed=not problems,
        problems=problems,
        merge_base="Merged into the 16-bit weights, the closer ones: KL 0.002 against 0.041.",
        **found,
    )
    command = silent.last_said(commands.Export)
    silent.hear(
        events.ExportFinished(
            id=command.id, folder=str(folder), files=("config.json",), bytes=5_000, verified=verified
        )
    )


def _popup(name):
    return next(widget for widget in QApplication.topLevelWidgets() if widget.objectName() == name)
