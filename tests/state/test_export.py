"""An export: asked for what can be, written once it was checked, and called good only where it agrees."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qlora_studio.config import places
from qlora_studio.config.prompts import CHECK_QUESTIONS
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.checkpoints import save_checkpoint
from qlora_studio.runs.run_state import read_state, write_state
from qlora_studio.state import export_source
from qlora_studio.state.export import ADAPTER, GGUF, MERGED, Stage
from qlora_studio.state.export_source import look_at
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import PROMPTS, Example, make_run

MODEL = "/models/tiny"
WEIGHTS = 5_000  # bytes of the adapter


@pytest.fixture
def run(app):
    return _make_run(app, "support", MODEL)


@pytest.fixture
def export(app, run, silent, qtbot):
    """The run is chosen, its model checked, a folder suggested."""
    app.export.refresh(run)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    return app.export


@pytest.fixture
def writing(export, silent):
    """The engine was told to write."""
    export.start()
    _prepare(silent)
    return export


def test_runs_with_a_finished_adapter_are_offered_the_newest_first(app, run, qtbot):
    _make_run(app, "second run", MODEL)
    make_run(app.preferences.runs_folder, Example(name="failed", end="failed", steps=3))
    make_run(
        app.preferences.runs_folder,
        Example(name="random", end="finished", steps=3, changes={"model.path": "shape:llama-7b"}),
    )
    app.export.refresh()
    qtbot.waitUntil(lambda: app.export.sources is not None)
    assert [source.run.name for source in app.export.sources] == ["second run", "support"]
    assert app.export.source.run.name == "second run"


def test_before_any_run_finished_there_is_nothing_to_export(app, qtbot):
    app.export.refresh()
    qtbot.waitUntil(lambda: app.export.sources == [])
    assert app.export.waits_for == "Choose a run."


def test_sizes_are_told_before_the_start(export):
    assert export.needed_bytes(ADAPTER) == WEIGHTS
    assert export.needed_bytes(MERGED) > export.shape.parameters * 2


def test_a_gguf_takes_half_in_8_bit_and_the_engine_is_told_which(export, silent, qtbot):
    export.set_kind(GGUF)
    in_8_bit = export.needed_bytes(GGUF)
    export.set_quant("f16")
    qtbot.waitUntil(lambda: export.place.folder.endswith("-support-gguf"))
    assert in_8_bit < export.needed_bytes(GGUF) < export.needed_bytes(MERGED)
    export.start()
    _prepare(silent)
    silent.answer(reading.MakeModelfile, reading.ModelfileMade, text="TEMPLATE x", notes="Of 5 chats.")
    command = silent.last_said(commands.Export)
    assert (command.to, command.quant, command.modelfile) == (GGUF, "f16", "TEMPLATE x")


def test_a_merged_model_in_nf4_is_smaller_and_the_engine_is_told(export, silent, qtbot):
    in_16_bit = export.needed_bytes(MERGED)
    export.set_kind(MERGED)
    export.set_merged_quant("nf4")
    qtbot.waitUntil(lambda: export.place.folder.endswith("-support-merged"))
    assert export.needed_bytes(MERGED) < in_16_bit
    export.start()
    _prepare(silent)
    command = silent.last_said(commands.Export)
    assert (command.to, command.quant) == (MERGED, "nf4")


def test_a_k_quant_without_its_library_says_what_is_missing(export, monkeypatch, qtbot):
    monkeypatch.setattr("qlora_studio.models.gguf_support.importlib.util.find_spec", lambda name: None)
    export.set_kind(GGUF)
    qtbot.waitUntil(lambda: not export.waits_for)
    export.set_quant("q4_k_m")
    assert export.waits_for.endswith("xllamacpp is not installed.")
    export.set_quant("q8_0")
    assert export.waits_for == ""


def test_a_template_that_ollama_can_not_say_is_no_reason_to_write_no_gguf(export, silent, qtbot):
    export.set_kind(GGUF)
    qtbot.waitUntil(lambda: export.place.folder.endswith("-support-gguf"))
    export.start()
    _prepare(silent)
    silent.answer(reading.MakeModelfile, reading.ModelfileMade, text="", notes="No Modelfile was written.")
    assert silent.last_said(commands.Export).modelfile == ""
    assert export.modelfile.notes == "No Modelfile was written."


def test_a_model_that_no_gguf_can_be_made_of_says_why(export):
    assert export.gguf_problem == ""
    export._shapes[MODEL] = msgspec.structs.replace(export.shape, family="phi3")
    export.set_kind(GGUF)
    assert export.waits_for.startswith("A phi3 model can't be written as GGUF here")


def test_the_samples_size_is_known_before_it_is_unpacked(app, qtbot):
    run = _make_run(app, "first", SAMPLE)
    app.export.refresh(run)
    qtbot.waitUntil(lambda: app.export.source is not None)
    assert app.export.needed_bytes(MERGED) > 200_000_000


def test_the_runs_own_prompts_come_first_and_general_ones_follow(export):
    own = list(PROMPTS)
    assert export.prompts == [*own, *CHECK_QUESTIONS[: 8 - len(own)]]
    export.set_prompt_count(2)
    assert export.prompts == own[:2]


def test_a_folder_is_suggested_that_does_not_exist(export, app, run, qtbot):
    exports = app.preferences.runs_folder.parent / "exports"
    assert export.place.folder == str(exports / f"{run.name}-adapter")
    (exports / f"{run.name}-merged").mkdir(parents=True)
    export.set_kind(MERGED)
    qtbot.waitUntil(lambda: export.place.folder == str(exports / f"{run.name}-merged-2"))
    assert export.waits_for == ""


def test_a_folder_of_ones_own_stays_when_the_kind_changes(export, tmp_path, qtbot):
    export.set_folder(str(tmp_path / "mine"))
    export.set_kind(MERGED)
    qtbot.waitUntil(lambda: export.place.free_bytes is not None)
    assert export.place.folder == str(tmp_path / "mine")


def test_a_folder_that_exists_is_refused_before_the_start(export, tmp_path, qtbot):
    export.set_folder(str(tmp_path))
    qtbot.waitUntil(lambda: "exists already" in export.waits_for)
    export.start()
    assert not export.busy


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("", "Choose a folder"), ("exports/mine", "whole path"), ("{file}/mine", "can't be written to")],
    ids=["empty", "relative", "below a file"],
)
def test_a_folder_that_can_not_be_made_says_why(tmp_path, folder, reason):
    file = tmp_path / "file"
    file.write_text("")
    assert reason in look_at(folder.format(file=file)).problem


def test_too_little_room_is_told_before_the_start(export, tmp_path, monkeypatch, qtbot):  # R9
    monkeypatch.setattr(export_source, "free_bytes", lambda folder: 1_000)
    export.set_folder(str(tmp_path / "mine"))
    qtbot.waitUntil(lambda: export.waits_for == "This needs 5.0 kB; 1.0 kB are free there.")


def test_a_training_run_holds_the_device(export, app):
    app.engine.run = Path("/runs/other-run")
    assert export.waits_for == "other-run is training and holds the device."
    export.start()
    assert not export.busy


def test_while_it_is_made_ready_and_written_nothing_else_begins(export, app, run, silent):
    export.start()
    assert app.engine.held == "An export is being written and holds the device."
    assert app.evaluation.why_not == app.engine.held
    _prepare(silent)
    assert app.engine.held
    silent.hear(
        events.CommandFailed(id=silent.last_said(commands.Export).id, error=events.Problem("No room."))
    )
    assert not app.engine.held


def test_a_model_that_was_refused_can_not_be_exported(app, run, silent, qtbot):
    app.export.refresh(run)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    silent.refuse(reading.CheckModel, "/models/tiny is gone.", "Put it back.")
    assert app.export.waits_for == "/models/tiny is gone. Put it back."


def test_the_engine_writes_once_adapter_and_prompts_were_read(export, silent, run):  # S5
    export.start()
    assert export.stage is Stage.PREPARING
    asked = silent.asked(reading.CheckAdapter)[0]
    assert (asked.folder, asked.base) == (str(run / "adapter"), MODEL)
    assert not silent.engines
    _prepare(silent)
    command = silent.last_said(commands.Export)
    assert (command.run, command.to, command.out) == (str(run), ADAPTER, export.place.folder)
    assert len(command.prompts) == 8
    assert export.stage is Stage.WRITING


def test_the_checkpoint_of_the_best_evaluation_is_chosen_first(app, silent, qtbot):
    best = _make_run_that_got_worse(app)
    app.export.refresh(best)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    assert (app.export.checkpoint, sorted(app.export.source.checkpoints)) == (10, [10])
    assert app.export.place.folder.endswith("-step-10-adapter")
    app.export.start()
    assert silent.asked(reading.CheckAdapter)[0].folder == str(best / "checkpoints" / "step-000010")
    _prepare(silent)
    assert silent.last_said(commands.Export).checkpoint == 10


def test_the_finished_adapter_can_be_chosen_instead(app, silent, qtbot):
    best = _make_run_that_got_worse(app)
    app.export.refresh(best)
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    app.export.set_checkpoint(None)
    qtbot.waitUntil(lambda: "step" not in app.export.place.folder)
    app.export.start()
    assert silent.asked(reading.CheckAdapter)[0].folder == str(best / "adapter")


def test_where_the_last_evaluation_is_the_best_the_finished_adapter_is_meant(export):
    assert export.checkpoint is None


def test_progress_tells_stage_bytes_and_time_left(writing, silent, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("qlora_studio.state.export.time.monotonic", lambda: now[0])
    _progress(silent, "Writing the model", 0)
    now[0] += 10
    _progress(silent, "Writing the model", 100)
    assert (writing.words, writing.done, writing.total) == ("Writing the model", 100, 400)
    assert writing.seconds_left == pytest.approx(30)


def test_what_agrees_is_verified(writing, silent, qtbot):
    folder = writing.place.folder
    _finish(silent, folder, agreement=0.984)
    assert writing.verified
    assert not writing.busy
    Path(folder).mkdir(parents=True)
    writing.set_kind(ADAPTER)
    qtbot.waitUntil(lambda: writing.place.folder.endswith("-adapter-2"))


@pytest.mark.parametrize(
    ("agreement", "passed"), [(0.71, True), (0.99, False)], ids=["below the limit", "not passed"]
)
def test_what_differs_is_never_called_verified(writing, silent, agreement, passed):
    _finish(silent, writing.place.folder, agreement, passed)
    assert writing.finished is not None
    assert not writing.verified


def test_the_limit_is_the_persons(writing, silent):
    _finish(silent, writing.place.folder, agreement=0.96)
    assert writing.verified
    writing.set_limit(0.98)
    assert not writing.verified


def test_stopped_while_it_prepares_nothing_is_written(export, silent, qtbot):
    export.start()
    with qtbot.waitSignal(export.stopped):
        export.stop()
    assert not export.busy
    assert not silent.asked(reading.CheckAdapter)


def test_stopped_while_it_writes_the_engine_removes_it(writing, silent, qtbot):  # R9
    writing.stop()
    assert writing.stage is Stage.STOPPING
    command = silent.last_said(commands.StopExport)
    with qtbot.waitSignal(writing.stopped):
        silent.hear(events.CommandFailed(id=command.id, error=Problem("Stopped.")))
    assert writing.problem is None
    assert not writing.busy


def test_what_fails_says_what_is_missing(writing, silent):
    command = silent.last_said(commands.Export)
    problem = Problem("Could not save the merged model: 1.2 GB is missing on the disk.", "Free some.")
    silent.hear(events.CommandFailed(id=command.id, error=problem))
    assert writing.problem == problem
    assert not writing.busy


def test_a_prompt_that_can_not_be_rendered_ends_it_in_words(export, silent):
    export.start()
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    silent.refuse(reading.EncodeChat, "The template fails at line 3.")
    assert export.problem.message == "The template fails at line 3."
    assert not export.busy


def test_an_engine_that_dies_ends_it_in_words(writing, silent):
    silent.engines[0].end("killed by the system, memory?")
    assert "killed by the system, memory?" in writing.problem.message
    assert not writing.busy


def test_the_sample_is_unpacked_before_it_is_merged(app, silent, qtbot):
    run = _make_run(app, "first", SAMPLE)
    app.export.refresh(run)
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    app.export.start()
    made = silent.last_said(commands.MakeSampleModel)
    places.sample_model_folder().mkdir(parents=True)
    (places.sample_model_folder() / "config.json").write_text("{}")
    silent.hear(events.SampleModelReady(id=made.id, folder="f"))
    assert silent.asked(reading.CheckModel)


def _make_run(app, name, model):
    example = Example(
        name=name,
        model="tiny",
        steps=20,
        evaluate_every=10,
        end="finished",
        checkpoints=False,
        changes={"model.path": model},
    )
    folder = make_run(app.preferences.runs_folder, example)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * WEIGHTS)
    return folder


def _make_run_that_got_worse(app):
    """20 steps; the evaluation at step 10 was the best."""
    folder = _make_run(app, "overfit", MODEL)
    for step in (10, 20):
        save_checkpoint(folder, step, lambda staging: (staging / "trainer.json").write_bytes(b"{}"))
    state = read_state(folder).state
    write_state(folder, msgspec.structs.replace(state, best_step=10, best_evaluation_loss=0.9))
    return folder


def _prepare(silent):
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    while silent.asked(reading.EncodeChat):
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())


def _progress(silent, words, done):
    command = silent.last_said(commands.Export)
    silent.hear(events.ExportProgress(id=command.id, words=words, done=done, total=400))


def _finish(silent, folder, agreement, passed=True):
    verified = events.Verification(
        with_="transformers",
        prompts=8,
        token_agreement=agreement,
        mean_kl=0.002,
        max_logprob_drift=0.03,
        passed=passed,
    )
    command = silent.last_said(commands.Export)
    silent.hear(
        events.ExportFinished(
            id=command.id, folder=folder, files=("adapter_config.json",), bytes=WEIGHTS, verified=verified
        )
    )


def test_of_a_run_with_all_weights_its_model_is_written(app, silent, qtbot):
    full = {"training.finetuning": "full", "model.quantization": "none"}
    made = Example(name="full", steps=20, evaluate_every=10, end="finished", changes=full)
    run = make_run(app.preferences.runs_folder, made)
    app.export.refresh(run)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    model = str(run / "model")
    assert silent.asked(reading.CheckModel)[0].folder == model
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(model))
    qtbot.waitUntil(lambda: bool(app.export.place.folder))
    assert app.export.kind == MERGED  # it has no adapter
    assert app.export.source.checkpoints == {}

    app.export.set_kind(ADAPTER)
    assert app.export.waits_for.startswith("All weights were trained: there is no adapter.")
    app.export.set_kind(MERGED)
    qtbot.waitUntil(lambda: not app.export.waits_for)
    app.export.start()
    while silent.asked(reading.EncodeChat):
        assert silent.asked(reading.EncodeChat)[0].model == model
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    command = silent.last_said(commands.Export)
    assert (command.run, command.to, command.checkpoint) == (str(run), MERGED, None)
