"""The run that is put together: what it costs, what stands in its way, and the click that mends it."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from qlora_studio.config import places
from qlora_studio.config.run_config import RunConfig, SamplePrompt
from qlora_studio.config.toml_file import read_run_config, with_changes
from qlora_studio.data.report import SkipReason
from qlora_studio.memory import devices
from qlora_studio.memory.devices import CardReading, RamReading
from qlora_studio.memory.measured import remember_speed
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.folder import create_run, open_run
from qlora_studio.runs.run_record import RunRecord
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.state import launch
from qlora_studio.state.train_cost import FEW_UPDATES, Kept, kept_rows, tokens_computed, updates
from tests.state.reports import counted, import_report, model_report
from tests.ui.example_runs import Example, make_run

GIB = 2**30
SETTLED = 60  # ms: after the last change

pytestmark = pytest.mark.usefixtures("no_card_but_memory")


@pytest.fixture
def train(app):
    app.draft.set_many({"model.path": "/models/tiny", "data.path": "/data/chats.jsonl"})
    app.train.open()
    return app.train


@pytest.fixture
def ready(train, silent, qtbot, tmp_path):
    """Model and data are read, and 3,000 rows of 100 to 400 tokens are counted."""
    lengths = [100 + row % 301 for row in range(3_000)]
    _answer(silent, qtbot, train, tmp_path, lengths)
    return train


def test_model_and_data_are_read_at_once_and_then_counted(train, silent, qtbot, tmp_path):
    assert train.waits_for == "Checking the model"
    silent.tell_progress(reading.CheckModel, 14, 291, "Checking tensors")
    assert train.waits_for == "Checking tensors: 14 of 291"
    _answer(silent, qtbot, train, tmp_path, [120] * 3_000)
    assert train.waits_for == ""
    assert train.kept().rows == 3_000


def test_nothing_is_read_before_the_page_was_opened(app, silent, qtbot):
    app.train._on_settled()
    assert silent.readers[0].asked == []


def test_another_model_is_checked_and_the_rows_counted_anew(ready, app, silent, qtbot):
    app.draft.set("model.path", "/models/other")
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    assert ready.lengths is None
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report("/models/other"))
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    assert silent.asked(reading.CountTokens)[0].model == "/models/other"


def test_a_model_that_is_refused_blocks_and_offers_another(train, silent, qtbot):
    silent.refuse(reading.CheckModel, "config.json is missing in /models/tiny.", "Choose another folder.")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=import_report())
    qtbot.waitUntil(lambda: bool(train.problems))
    problem = _problem(train, "config.json is missing")
    assert (problem.blocks, problem.key, problem.mends[0].page) == (True, "model.path", "models")
    assert train.waits_for == "a model that can be used"


def test_where_no_row_teaches_and_none_is_too_long_the_way_on_is_no_longer_limit(
    train, app, silent, qtbot, tmp_path
):
    app.draft.set("training.method", "dpo")
    qtbot.waitUntil(lambda: bool(silent.asked(reading.ImportData)))
    _answer(silent, qtbot, train, tmp_path, [120] * 300, learned=[0] * 300)
    problem = _problem(train, "No row can be learned from.")
    assert [(mend.page, mend.changes) for mend in problem.mends] == [
        ("data", {}),
        ("", {"training.method": "sft"}),
    ]
    assert train.waits_for == "rows with a token to learn"


def test_preferences_and_every_token_are_mended_with_one_click(ready, app, qtbot):
    app.draft.set_many({"training.method": "dpo", "data.train_on": "everything"})
    qtbot.waitUntil(lambda: ready.waits_for == "answers to learn")
    problem = _problem(ready, "learned from answers alone")
    assert (problem.blocks, problem.key) == (True, "data.train_on")
    assert ready.data_refused is None
    app.draft.set_many(problem.mends[0].changes)
    qtbot.waitUntil(lambda: not any(item.key == "data.train_on" for item in ready.problems))


def test_many_skipped_rows_block_until_somebody_accepts_them(train, silent, qtbot, tmp_path):  # D3
    skipped = import_report(skipped=7, imported=293, problems=(SkipReason(4, "without an answer", 7),))
    _answer(silent, qtbot, train, tmp_path, [120] * 3_000, skipped)
    problem = _problem(train, "7 of 300 rows skipped")
    assert [mend.words for mend in problem.mends] == ["Show them", "Train without them"]
    train.accept("skipped")
    qtbot.waitUntil(lambda: not train.waits_for)


def test_few_updates_are_mended_with_one_click(train, app, silent, qtbot, tmp_path):
    _answer(silent, qtbot, train, tmp_path, [120] * 300)
    problem = _problem(train, "The run makes only about 2 updates")
    assert not problem.blocks
    for mend in problem.mends:
        changed = with_changes(app.draft.config, mend.changes)
        kept = kept_rows(train.lengths, changed.data)
        assert updates(changed, kept) >= FEW_UPDATES
        assert kept.longer == 0
    assert problem.mends[0].words == "Accumulate 1, Rows per step 1, Sequence length 512"


def test_fewer_rows_an_update_are_enough_where_they_are(train, app, silent, qtbot, tmp_path):
    _answer(silent, qtbot, train, tmp_path, [1_000] * 1_000)
    problem = _problem(train, "The run makes only about 31 updates")
    assert [mend.changes for mend in problem.mends] == [
        {"training.gradient_accumulation": 2},
        {"training.epochs": 2.0},
    ]


def test_rows_that_are_too_long_can_be_kept_by_a_longer_limit(ready, app, qtbot):
    app.draft.set("data.seq_len", 256)
    qtbot.waitUntil(lambda: any("are longer than 256" in problem.words for problem in ready.problems))
    problem = _problem(ready, "are longer than 256")
    assert not problem.blocks
    assert problem.mends[0].changes == {"data.seq_len": 448}


def test_most_chats_are_dropped_only_where_somebody_says_so(train, silent, app, qtbot, tmp_path):
    _answer(silent, qtbot, train, tmp_path, [120] * 10 + [300] * 200)
    app.draft.set("data.seq_len", 256)
    qtbot.waitUntil(lambda: train.waits_for == "a length that holds most rows")
    problem = _problem(train, "200 of 210 chats are longer than 256 tokens")
    assert (problem.blocks, problem.mends[1].accepts) == (True, "dropped")
    train.accept("skipped")  # another question
    assert not train.dropped_accepted
    train.accept("dropped")
    qtbot.waitUntil(lambda: not _problem(train, "are longer than 256").blocks)


def test_where_any_longer_row_stops_the_start_waits(ready, app, qtbot):
    app.draft.set_many({"data.seq_len": 256, "data.too_long": "stop"})
    qtbot.waitUntil(lambda: ready.waits_for == "a length that holds all rows")
    assert _problem(ready, "are longer than 256").blocks


def test_no_row_with_anything_to_learn_blocks(train, silent, qtbot, tmp_path):  # D8
    _answer(silent, qtbot, train, tmp_path, [120] * 300, learned=[0] * 300)
    assert _problem(train, "No row can be learned from. The first one: it has no token to learn.").blocks


def an_h100():
    return CardReading(
        name="H100",
        total_bytes=80 * GIB,
        used_bytes=0,
        load=None,
        temperature_c=None,
        power_w=None,
        other_bytes=None,
        compute_capability=(9, 0),
    )


def test_what_does_not_fit_offers_what_would_with_its_price(ready, app, monkeypatch, qtbot):
    monkeypatch.setattr(
        launch, "ram_reading", lambda: RamReading(total_bytes=4 * GIB, free_bytes=3 * GIB, load=0.0)
    )
    app.draft.set_many({"lora.r": 32, "model.compute_dtype": "float32"})
    qtbot.waitUntil(lambda: ready.waits_for == "settings that fit in memory")
    problem = _problem(ready, "are free")
    assert problem.blocks
    assert problem.mends
    assert all(mend.words.endswith("GiB less") for mend in problem.mends)


@pytest.mark.parametrize(
    ("changes", "room", "ram", "said"),
    [
        ({"training.keep_dequantized": True}, 24, 32, "Keep dequantized off: 13.2 GiB less"),
        ({}, 14, 32, "Embedding in RAM on: 1.0 GiB less"),
        ({"training.embedding_in_ram": True}, 48, 0.5, "Embedding in RAM off: 1.0 GiB more on the card"),
    ],
)
def test_a_switch_is_offered_on_or_off_with_what_that_takes(
    ready, app, monkeypatch, qtbot, changes, room, ram, said
):
    card = msgspec.structs.replace(an_h100(), total_bytes=room * GIB)
    of_ram = RamReading(total_bytes=64 * GIB, free_bytes=int(ram * GIB), load=0.0)
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    monkeypatch.setattr(launch, "ram_reading", lambda: of_ram)
    monkeypatch.setattr(ready, "shape", lambda: known_shape("llama-3.1-8b"))
    app.draft.set_many({"data.seq_len": 2048, "training.recompute": "all", **changes})
    qtbot.waitUntil(lambda: said in [mend.words for item in ready.problems for mend in item.mends])


def test_ram_that_has_no_room_for_inputs_of_layers_blocks(ready, app, monkeypatch, qtbot):
    card = an_h100()
    ram = RamReading(total_bytes=4 * GIB, free_bytes=GIB // 4, load=0.0)
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    monkeypatch.setattr(launch, "ram_reading", lambda: ram)
    app.draft.set_many({"training.recompute": "host", "data.seq_len": 2048, "data.packing": True})
    qtbot.waitUntil(lambda: ready.waits_for == "settings that fit in memory")
    problem = _problem(ready, "of RAM; 0.2 are free")
    assert problem.blocks
    assert problem.mends[0].changes == {"training.recompute": "all"}
    assert ready.promise.fits is False


def test_where_no_settings_make_it_fit_a_smaller_recipe_is_named(ready, app, monkeypatch, qtbot):
    monkeypatch.setattr(
        launch, "ram_reading", lambda: RamReading(total_bytes=24 * GIB, free_bytes=23 * GIB, load=0.0)
    )
    ready.model = model_report(shape=known_shape("llama-65b"))
    app.draft.set("lora.r", 32)
    qtbot.waitUntil(lambda: ready.waits_for == "a model that fits in memory")
    problem = _problem(ready, "A smaller model fits: the recipe guanaco-13b needs 19.7 GiB.")
    assert problem.blocks
    assert [mend.page for mend in problem.mends] == ["models"]


def test_little_data_are_promised_what_their_rows_take(train, app, silent, qtbot, tmp_path):
    assert train.promises_at_most
    _answer(silent, qtbot, train, tmp_path, [63] * 22_000)
    full = train.promise.total
    app.draft.set("data.path", "/data/few.jsonl")
    qtbot.waitUntil(lambda: bool(silent.asked(reading.ImportData)))
    report = import_report(conversations=22)
    silent.answer(reading.ImportData, reading.DataImported, dataset="/datasets/2", report=report)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    silent.answer(reading.CountTokens, reading.TokensCounted, **counted(tmp_path, [63] * 22))
    qtbot.waitUntil(lambda: train.lengths is not None)
    qtbot.wait(SETTLED)
    assert not train.promises_at_most
    assert train.promise.total < full / 3
    assert train.kept().tokens == 22 * 63


LITTLE = Kept(rows=22, seen=22.0, tokens=1_389)
NOTHING_HELD_OUT = {"data.validation": 0.0}


def test_little_data_take_the_time_of_their_own_tokens():
    config = with_changes(RunConfig(), NOTHING_HELD_OUT | {"training.steps": 30})
    assert tokens_computed(config, LITTLE, padded=False) == 30 * 1_389
    assert tokens_computed(config, LITTLE, padded=True) == pytest.approx(30 * 4 * 2048 * 0.96)
    unpacked = with_changes(config, {"data.packing": False})
    assert tokens_computed(unpacked, LITTLE, padded=False) == 30 / 2 * 1_389  # 16 rows, then 6


def test_each_pass_over_little_data_is_an_update():
    config = with_changes(RunConfig(), NOTHING_HELD_OUT | {"training.epochs": 3.0})
    assert updates(config, LITTLE) == 3
    assert tokens_computed(config, LITTLE, padded=False) == 3 * 1_389


def test_much_data_fill_their_batches():
    config = with_changes(RunConfig(), NOTHING_HELD_OUT)
    much = Kept(rows=100_000, seen=1e5, tokens=20_000_000)
    computed = [tokens_computed(config, much, padded=padded) for padded in (False, True)]
    assert computed == [20_000_000, pytest.approx(20_000_000, rel=0.01)]


def test_settings_that_spoil_a_run_are_warned_of_and_mended_with_a_click(ready, app, qtbot):
    app.draft.set_many({"training.learning_rate": 1.5, "training.warmup_steps": 5_000})
    qtbot.waitUntil(lambda: any("warm-up" in problem.words for problem in ready.problems))
    rate = _problem(ready, "A learning rate of 1.5 is far above the usual 1e-5 to 1e-3")
    warmup = _problem(ready, "The warm-up of 5,000 updates is no shorter than the run of 23 updates")
    assert not rate.blocks and not warmup.blocks
    app.draft.set_many(rate.mends[0].changes | warmup.mends[0].changes)
    assert (app.draft.value("training.learning_rate"), app.draft.value("training.warmup_steps")) == (2e-4, 2)


def test_a_rate_that_is_high_for_preferences_is_mended_by_one_that_is_usual(ready, app, qtbot):
    app.draft.set_many({"training.method": "dpo", "training.learning_rate": 2e-4})
    words = "is high where answers are preferred"
    qtbot.waitUntil(lambda: any(words in problem.words for problem in ready.problems))
    app.draft.set_many(_problem(ready, words).mends[0].changes)
    assert app.draft.value("training.learning_rate") == 5e-5
    qtbot.waitUntil(lambda: not any(words in problem.words for problem in ready.problems))


def test_a_full_disk_blocks_before_the_start(ready, app, qtbot):  # R9
    app.machine.free_bytes = 1_000_000_000
    app.machine.changed.emit()
    qtbot.waitUntil(lambda: ready.waits_for == "room on the disk")
    assert _problem(ready, "The runs disk has 1.0 GB free").blocks


def test_one_device_one_owner(ready, app, qtbot):
    app.engine.run = Path("/runs/other-run")
    app.engine.changed.emit()
    qtbot.waitUntil(lambda: ready.waits_for == "the device")
    assert _problem(ready, "other-run is training and holds the device.").blocks
    app.engine.run = None
    app.engine.lend("An export is being written and holds the device.", "export")
    qtbot.waitUntil(lambda: any(problem.words == app.engine.held for problem in ready.problems))
    assert [mend.page for mend in _problem(ready, app.engine.held).mends] == ["export"]


def test_no_run_is_started_while_an_evaluation_holds_the_engine(ready, app, silent, qtbot):
    example = Example(steps=20, evaluate_every=10, end="finished")
    app.evaluation.look_at(open_run(make_run(app.preferences.runs_folder, example)))
    app.evaluation.start("/data/test.jsonl")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=200)
    qtbot.waitUntil(lambda: ready.waits_for == "the device")
    assert _problem(ready, "An evaluation is on its way and holds the device.").blocks
    silent.hear(
        events.CommandFailed(id=silent.last_said(commands.Evaluate).id, error=events.Problem("No room."))
    )
    qtbot.waitUntil(lambda: not ready.waits_for)


def test_no_run_is_started_while_a_quantization_is_measured(ready, app, silent, tmp_path, qtbot):
    app.quantization.look_at(str(tmp_path))
    app.quantization.start()
    qtbot.waitUntil(lambda: bool(silent.said(commands.MeasureQuantization)))
    silent.hear(events.LoadingProgress(done=1, total=9, words="Rounding the layers of tiny"))
    command = silent.last_said(commands.MeasureQuantization)
    qtbot.waitUntil(lambda: ready.waits_for == "the device")
    assert _problem(ready, "A model's quantization is being measured, which holds the device.").blocks
    silent.hear(events.CommandFailed(id=command.id, error=events.Problem("The measurement was stopped.")))
    qtbot.waitUntil(lambda: not ready.waits_for)


def test_the_name_is_made_of_data_and_model_and_is_free(ready, app, qtbot):
    assert ready.name == "chats-tiny"
    _make_run(app, "chats-tiny")
    ready.open()
    qtbot.waitUntil(lambda: ready.name == "chats-tiny-2")


def test_a_name_that_is_taken_blocks_and_offers_a_free_one(ready, app, qtbot):
    _make_run(app, "mine")
    ready.open()
    qtbot.waitUntil(lambda: "mine" in ready.history.names)
    ready.set_name(" mine ")
    problem = _problem(ready, "There is a run named mine already.")
    assert (problem.blocks, problem.mends[0].name) == (True, "mine-2")
    ready.set_name("mine-2")
    assert ready.waits_for == ""


def test_the_last_runs_tell_how_true_the_promise_was(ready, app, qtbot):
    _make_run(app, "mine", promised=10 * GIB, peak=int(10.2 * GIB))
    ready.open()
    qtbot.waitUntil(lambda: bool(ready.history.names))
    assert ready.history.promise_words("cpu") == "The last run here: said 10.0, was 10.2 GiB"
    assert ready.history.promise_words("cuda") == ""
    _make_run(app, "second", promised=11 * GIB, peak=10 * GIB)
    ready.open()
    qtbot.waitUntil(lambda: "second" in ready.history.names)
    assert ready.history.promise_words("cpu") == "Last 2 runs here: promised within 10\u202f%"


def test_a_changed_setting_tells_what_it_costs(ready, app, qtbot):
    assert ready.difference("lora.r") == 0
    with qtbot.waitSignal(ready.changed):
        app.draft.set("lora.r", 128)
    assert ready.difference("lora.r") > 0


def test_prompts_come_from_the_data_until_one_is_written(ready, app, silent, qtbot):
    ready.suggest_prompts()
    ready.suggest_prompts()
    assert len(silent.asked(reading.SuggestSamples)) == 1
    silent.answer(reading.SuggestSamples, reading.SamplesSuggested, prompts=("Why?", "How?"))
    assert [sample.prompt for sample in ready.prompts()] == ["Why?", "How?"]
    assert app.draft.config.samples == ()
    ready.set_prompts(["Why not?", "", "How?"], 80)
    assert ready.prompts_are_own
    assert app.draft.config.samples == (
        SamplePrompt(prompt="Why not?", max_tokens=80),
        SamplePrompt(prompt="How?", max_tokens=80),
    )
    app.draft.use_preset(app.draft.presets[-1])
    assert ready.prompts_are_own
    ready.set_prompts([], 64)
    assert [sample.prompt for sample in ready.prompts()] == ["Why?", "How?"]


def test_the_command_names_a_file_that_gives_the_same_settings(ready, app, qtbot, tmp_path):
    app.draft.set_many({"lora.r": 16, "training.epochs": 3.0})
    app.preferences.set("runs_folder", str(tmp_path / "my runs"))
    written = []
    ready.write_command_file(lambda: written.append(True))
    qtbot.waitUntil(lambda: bool(written))
    words = shlex.split(ready.command())
    assert words[:2] == ["qlora-studio", "train"]
    assert words[3:] == ["--name", ready.name, "--runs-dir", str(tmp_path / "my runs")]
    assert read_run_config(Path(words[2])) == app.draft.config
    assert places.settings_folder() in Path(words[2]).parents


def test_a_settings_file_is_saved_and_opened_again(ready, app, qtbot, tmp_path):
    app.draft.set("lora.r", 16)
    saved = []
    ready.save_file(tmp_path / "mine.toml", lambda: saved.append(True))
    qtbot.waitUntil(lambda: bool(saved))
    app.draft.set("lora.r", 32)
    ready.open_file(tmp_path / "mine.toml")
    qtbot.waitUntil(lambda: app.draft.config.lora.r == 16)


def test_a_settings_file_may_name_the_run_it_starts_from_as_it_is_called(ready, app, qtbot, tmp_path):
    run = make_run(app.preferences.runs_folder, Example(name="support", steps=10, end="finished"))
    file = tmp_path / "on.toml"
    file.write_text('[lora]\nstart_from = "support"\n')
    ready.open_file(file)
    qtbot.waitUntil(lambda: app.draft.config.lora.start_from == str(run))

    file.write_text('[lora]\nstart_from = "nobody"\n')
    with qtbot.waitSignal(ready.refused) as refused:
        ready.open_file(file)
    assert "no run of that name" in refused.args[0]


def test_a_settings_file_that_can_not_stand_is_refused_by_name(ready, app, qtbot, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("[lora]\nr = 0\n")
    before = app.draft.config
    with qtbot.waitSignal(ready.refused) as refused:
        ready.open_file(file)
    assert "bad.toml" in refused.args[0]
    assert "lora.r" in refused.args[0]
    assert app.draft.config == before


def test_dora_and_layers_chosen_by_name_are_counted_as_the_engine_trains_them(ready, app, qtbot):
    every = ready.trained_parameters()
    app.draft.set("lora.target_modules", ("q_proj", "v_proj"))
    shape = ready.shape()
    sizes = [(out, inner) for name, out, inner in shape.linears if name.endswith(("q_proj", "v_proj"))]
    assert ready.trained_parameters() == 64 * shape.layers * sum(out + inner for out, inner in sizes) < every


def _answer(silent, qtbot, train, folder, lengths, report=None, learned=None):
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report())
    read = report or import_report(conversations=len(lengths))
    silent.answer(reading.ImportData, reading.DataImported, dataset="/datasets/1", report=read)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    silent.answer(reading.CountTokens, reading.TokensCounted, **counted(folder, lengths, learned))
    qtbot.waitUntil(lambda: train.lengths is not None)
    qtbot.wait(SETTLED)


def _problem(train, words):
    return next(problem for problem in train.problems if words in problem.words)


def _make_run(app, name, promised=0, peak=0):
    record = RunRecord(
        name=name,
        created=1_795_000_000.0 + len(name),
        config=RunConfig(),
        promise_bytes={"weights": promised} if promised else {},
    )
    folder = create_run(app.preferences.runs_folder, record)
    write_state(folder, RunState(state="finished", step=40, peak_bytes=peak))


def test_how_long_a_run_in_fp8_takes_is_told_by_runs_in_fp8(ready, app, monkeypatch):
    card = an_h100()
    for reader in (launch, devices):
        monkeypatch.setattr(reader, "card_reading", lambda: card)
    app.draft.set_many({"data.packing": True, "model.quantization": "nf4", "training.fp8": True})
    remember_speed("H100", ready.shape(), "nf4", 1000.0, graphed=True)
    assert ready.seconds() is None
    remember_speed("H100", ready.shape(), "nf4", 2000.0, fp8=True)
    assert ready.seconds() is None  # passes that aren't played take longer
    remember_speed("H100", ready.shape(), "nf4", 2000.0, fp8=True, graphed=True)
    in_fp8 = ready.seconds()
    app.draft.set("training.fp8", False)
    assert ready.seconds() == pytest.approx(2 * in_fp8)
