"""A measurement asked for in the window: text, engine, and the report that is kept."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.models.quantization_report import BLOCK_SIZES, report_file
from qlora_studio.protocol import commands, events, reading
from qlora_studio.state.quantization import HOLDS
from tests.state.reports import quantization_report


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def state(app, folder, qtbot):
    app.quantization.look_at(str(folder))
    return app.quantization


def begun(state, silent, qtbot) -> commands.MeasureQuantization:
    qtbot.waitUntil(lambda: bool(silent.said(commands.MeasureQuantization)))
    return silent.last_said(commands.MeasureQuantization)


def keep(out, report) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.encode(report))


def test_a_text_is_read_then_the_engine_measures_and_the_report_is_shown(state, folder, silent, qtbot):
    state.start("/data/some.txt")
    asked = silent.asked(reading.PrepareText)[0]
    assert (asked.model, asked.path) == (str(folder), "/data/some.txt")
    silent.answer(reading.PrepareText, reading.EvaluationPrepared, prepared="/cache/rows", rows=9)
    command = begun(state, silent, qtbot)
    assert (command.model, command.prepared, command.text) == (str(folder), "/cache/rows", "/data/some.txt")
    assert (command.block_sizes, command.out) == ((64,), str(report_file(folder)))
    silent.hear(events.LoadingProgress(done=3, total=14, words="Rounding the layers of tiny"))
    assert (state.words, state.done, state.total) == ("Rounding the layers of tiny", 3, 14)
    keep(report_file(folder), quantization_report())
    silent.hear(events.QuantizationMeasured(id=command.id, report=command.out))
    qtbot.waitUntil(lambda: state.report == quantization_report())
    assert not state.busy


def test_without_a_text_the_reader_is_not_asked_and_all_block_sizes_are_a_wish(state, silent, qtbot):
    state.start(all_blocks=True)
    assert begun(state, silent, qtbot).block_sizes == BLOCK_SIZES
    assert not silent.asked(reading.PrepareText)


def test_what_was_measured_before_is_there_at_once(app, state, folder, tmp_path, qtbot):
    keep(report_file(folder), quantization_report())
    state.look_at(str(tmp_path / "another"))
    state.look_at(str(folder))
    qtbot.waitUntil(lambda: state.report is not None)


def test_a_stopped_measurement_is_no_problem(state, silent, qtbot):
    state.start()
    command = begun(state, silent, qtbot)
    state.stop()
    assert silent.last_said(commands.StopMeasuring).id == command.id
    assert state.stopping
    silent.hear(events.CommandFailed(id=command.id, error=events.Problem("The measurement was stopped.")))
    assert (state.busy, state.problem) == (False, None)


def test_stopped_while_the_text_is_read_the_engine_is_told_nothing(state, silent):
    state.start("/data/some.txt")
    state.stop()
    assert not state.busy
    assert not silent.asked(reading.PrepareText)
    assert not silent.said(commands.MeasureQuantization)


def test_a_text_that_can_not_be_read_is_a_problem_of_this_model_alone(state, silent, tmp_path):
    state.start("/data/some.txt")
    silent.refuse(reading.PrepareText, "/data/some.txt is empty.")
    assert state.problem.message == "/data/some.txt is empty."
    state.look_at(str(tmp_path / "another"))
    assert state.problem is None


def test_an_engine_that_ends_is_a_problem_and_the_next_measurement_works(state, silent, qtbot):
    state.start()
    begun(state, silent, qtbot)
    silent.engines[-1].end("signal 9")
    assert "signal 9" in state.problem.message
    assert state.why_not == ""


def test_while_a_run_trains_it_holds_the_device(app, state, home, silent):
    app.engine.train(home / "other", "other-run")
    assert state.why_not == "other-run is training and holds the device."
    state.start()
    assert not silent.said(commands.MeasureQuantization)


def test_while_it_is_measured_nothing_else_gets_the_device(app, state, silent, qtbot):
    state.start()
    assert (app.engine.held, app.engine.shown_on) == (HOLDS, "models")
    command = begun(state, silent, qtbot)
    silent.hear(events.CommandFailed(id=command.id, error=events.Problem("No room.")))
    assert app.engine.held == ""


def test_tables_and_pictures_are_saved_into_a_folder_of_their_own(state, tmp_path, qtbot):
    state.report = quantization_report()
    with qtbot.waitSignal(state.saved) as saved:
        state.save(tmp_path)
    assert saved.args[0] == tmp_path / "tiny-quantization"
    assert (saved.args[0] / "settings.csv").is_file()
