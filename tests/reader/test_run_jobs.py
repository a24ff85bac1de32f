"""What it takes to start a run, and to go on with one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.conversation import Message
from qlora_studio.data.prepared import open_prepared
from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import RamReading
from qlora_studio.protocol import reading
from qlora_studio.reader import run_jobs
from qlora_studio.reader.model_jobs import NOT_KEPT
from qlora_studio.runs.folder import open_run
from tests.data.tiny_tokenizer import CHATML
from tests.reader.whole_model import chats_file


def settings(model, data, **changes):
    values = {"model.path": str(model), "data.path": str(data), "data.seq_len": 128, "data.validation": 0.1}
    return with_changes(RunConfig(), values | {key.replace("__", "."): item for key, item in changes.items()})


def prepare(jobs, tmp_path, config, **fields):
    return jobs.answer(
        reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs"), **fields)
    )


def refusal(jobs, request):
    with pytest.raises(StudioError) as refused:
        jobs.answer(request)
    return refused.value


@pytest.fixture
def run(jobs, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    config = settings(copy, chats_file(tmp_path / "chats.jsonl"))
    return prepare(jobs, tmp_path, config, device_memory_bytes=8 * 10**9)


def test_the_run_folder_says_all_that_the_engine_needs(run, tmp_path):
    record = open_run(tmp_path / "runs" / run.run).record
    rows = open_prepared(tmp_path / record.prepared.folder)

    assert record.name == "chats model"
    assert record.config.model.path == record.model_folder == str(tmp_path / "model")
    assert record.config.training.recompute == 0
    assert (record.prepared.steps, record.prepared.train_rows) == (run.steps, 36)
    assert all(len(hash) == 64 for hash in (record.hashes.model, record.hashes.data, record.hashes.template))
    assert record.hashes.template == rows.info.template_sha256
    assert sum(record.promise_bytes.values()) > 0
    assert record.versions["tokenizers"]
    assert len(rows.train) == 36
    assert len(rows.info.samples) == 3


def test_prompts_shown_before_the_start_are_those_of_the_run(jobs, run, model, tmp_path):
    record = open_run(tmp_path / "runs" / run.run).record
    config = settings(model, tmp_path / "chats.jsonl")

    suggested = jobs.answer(reading.SuggestSamples(id=2, config=config))

    rows = open_prepared(tmp_path / record.prepared.folder)
    assert suggested.prompts == tuple(sample.prompt for sample in rows.info.samples)


def test_more_than_one_percent_skipped_asks(jobs, model, tmp_path):  # D3
    data = chats_file(tmp_path / "chats.jsonl", count=90)
    data.write_text(data.read_text() + '{"question": "cut off\n' * 2)
    config = settings(model, data)

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))
    accepted = prepare(jobs, tmp_path, config, accept_skipped=True)

    assert "2 of 92 rows" in refused.message
    assert "line 91" in refused.message
    assert "--accept-skipped" in refused.hint
    assert accepted.report.skipped == 2


def trees_file(file, *lines):
    """Thirty prompts with two ranked answers each, a record a message; `lines` behind them."""
    messages = []
    for i in range(30):
        messages.append({"message_id": f"p{i}", "parent_id": None, "role": "prompter", "text": f"hello {i}?"})
        for rank in (1, 0):
            answer = {"message_id": f"a{i}-{rank}", "parent_id": f"p{i}", "role": "assistant", "rank": rank}
            messages.append(answer | {"text": f"answer {rank}"})
    file.write_text("".join(f"{line}\n" for line in [*map(json.dumps, messages), *lines]))
    return file


def test_what_a_format_leaves_out_by_design_is_not_asked_about(jobs, model, tmp_path):  # D3
    config = settings(model, trees_file(tmp_path / "trees.jsonl"))

    prepared = prepare(jobs, tmp_path, config)

    assert (prepared.report.skipped, prepared.report.unusable, prepared.report.merged) == (30, 0, 30)
    assert prepared.train_rows + prepared.validation_rows == 30


def test_faults_beside_what_a_format_leaves_out_are_asked_about(jobs, model, tmp_path):  # D3
    config = settings(model, trees_file(tmp_path / "trees.jsonl", "{broken", "{broken"))

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))

    assert "2 of 92 rows" in refused.message
    assert "line 91: not valid JSON" in refused.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data__seq_len": 20}, "40 longer than 20 tokens"),
        ({"data__too_long": "stop", "data__seq_len": 20}, "line 1 has"),
        ({"data__path": "", "data__mix": [{"path": "x"}]}, "x can't be opened"),
        ({"model__path": "missing"}, "missing"),
        ({"model__path": "sample"}, "sample model"),
        ({"data__path": "missing.jsonl"}, "missing.jsonl"),
        ({"data__validation": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_what_can_not_be_trained_is_refused_and_leaves_no_run(jobs, model, tmp_path, change, reason):
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), **change)

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))

    assert reason in refused.message
    assert not (tmp_path / "runs").exists()


@pytest.mark.fault(9)
def test_no_room_on_the_disk_is_refused(jobs, model, tmp_path, monkeypatch):  # R9
    monkeypatch.setattr("qlora_studio.runs.space.free_bytes", lambda folder: 1_000_000_000)
    config = settings(model, chats_file(tmp_path / "chats.jsonl"))

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))

    assert "is missing on the disk" in refused.message


def test_a_file_held_out_is_read_too(jobs, model, tmp_path):
    held = chats_file(tmp_path / "held.jsonl", count=5, question="other {i}?")
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), data__validation=str(held))

    made = prepare(jobs, tmp_path, config)

    assert (made.train_rows, made.validation_rows) == (40, 5)


def test_files_beside_the_data_have_their_own_encodings(jobs, model, tmp_path):  # D5
    held = chats_file(tmp_path / "held.jsonl", count=5, question="élève {i}?")
    held.write_bytes(held.read_text().replace("\\u00e9", "é").replace("\\u00e8", "è").encode("cp1252"))
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), data__validation=str(held))
    named = settings(
        model, tmp_path / "chats.jsonl", data__validation=str(held), data__validation_encoding="windows-1252"
    )

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))
    made = prepare(jobs, tmp_path, named)
    tested = jobs.answer(
        reading.PrepareEvaluation(id=3, run=made.run, path=str(held), encoding="windows-1252")
    )

    assert "held.jsonl: line 1 is not UTF-8" in refused.message
    assert "data.validation_encoding" in refused.hint
    assert (made.validation_rows, tested.rows) == (5, 5)


def test_a_run_may_go_on_where_nothing_changed(jobs, run):  # R3
    ready = jobs.answer(reading.CheckResume(id=2, run=run.run))

    assert (ready.run, ready.step) == (run.run, 0)


def test_a_way_to_take_less_memory_that_changes_nothing_is_refused(jobs, run):  # R14
    ask = reading.CheckResume(id=1, run=run.run, ways=("without_rows",))
    assert "No rows were named" in refusal(jobs, ask).message
    assert jobs.answer(reading.CheckResume(id=1, run=run.run, ways=("half_rows",))).step == 0


def test_the_lengths_of_rows_are_those_that_the_run_computes(jobs, run, tmp_path):
    train = open_prepared(tmp_path / open_run(tmp_path / "runs" / run.run).record.prepared.folder).train
    first, last = train[0], train[len(train) - 1]
    rows = (last.row, first.row, 10_000)
    shown = jobs.answer(reading.ShowRowLengths(id=1, run=run.run, rows=rows))
    assert shown.tokens == (len(last.ids), len(first.ids), 0)


def change_data(folder):
    chats_file(folder / "chats.jsonl", answer="other {i}")


def change_template(folder):
    (folder / "model" / "chat_template.jinja").write_text(CHATML + "{# other #}")


def change_tokenizer(folder):
    file = folder / "model" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))


def change_weights(folder):
    file = folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_rows(folder):
    (run,) = (folder / "runs").iterdir()
    file = folder / open_run(run).record.prepared.folder / "train.arrow"
    rows = open_prepared(file.parent).train[5].ids.tobytes()
    content = bytearray(file.read_bytes())
    content[content.find(rows)] ^= 1
    file.write_bytes(content)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_data, "chats.jsonl changed"),
        (change_template, "The chat template of"),
        (change_tokenizer, "The tokenizer in"),
        (change_weights, "The weights or the config in"),
        (change_rows, "The prepared rows in"),
    ],
)
def test_what_changes_the_mathematics_is_refused(jobs, run, tmp_path, change, named):  # R3, fault 8
    change(tmp_path)

    refused = refusal(jobs, reading.CheckResume(id=2, run=run.run))

    assert named in refused.message
    assert "new run" in refused.hint


def test_without_the_data_file_a_run_goes_on_with_its_rows(jobs, run, tmp_path):
    (tmp_path / "chats.jsonl").unlink()

    assert jobs.answer(reading.CheckResume(id=2, run=run.run)).step == 0


def test_a_cleared_cache_is_filled_again_with_the_same_rows(jobs, run, tmp_path, home):  # R3
    folder = open_prepared(tmp_path / open_run(tmp_path / "runs" / run.run).record.prepared.folder)
    before = folder.info.content_sha256
    shutil.rmtree(home / "cache")

    jobs.answer(reading.CheckResume(id=2, run=run.run))

    assert open_prepared(folder.folder).info.content_sha256 == before


def test_rows_for_an_evaluation_are_made_as_the_runs_own(jobs, run, tmp_path):
    file = chats_file(tmp_path / "test.jsonl", count=7)

    made = jobs.answer(reading.PrepareEvaluation(id=3, run=run.run, path=str(file)))

    rows = open_prepared(tmp_path / made.prepared)
    assert made.rows == len(rows.validation) == 7
    own = open_prepared(tmp_path / open_run(tmp_path / "runs" / run.run).record.prepared.folder)
    known = {own.train[i].row: own.train[i].ids.tolist() for i in range(len(own.train))}
    same = [rows.validation[i] for i in range(7) if rows.validation[i].row in known]
    assert all(row.ids.tolist() == known[row.row] for row in same)


def test_the_bundled_general_questions_are_evaluated_by_their_name(jobs, run, tmp_path):
    made = jobs.answer(reading.PrepareEvaluation(id=3, run=run.run, path="general"))

    rows = open_prepared(tmp_path / made.prepared)
    assert made.rows == len(rows.validation) > 50  # in letters for tokens the others are too long
    assert "too long" in made.notes[0] or "longer" in made.notes[0]


def test_a_template_that_changed_after_training_is_refused_for_an_evaluation(jobs, run, tmp_path):
    file = chats_file(tmp_path / "test.jsonl", count=3)
    change_template(tmp_path)
    refused = refusal(jobs, reading.PrepareEvaluation(id=3, run=run.run, path=str(file)))
    assert "another one than in training" in refused.message
    assert any(line.startswith("+") and line.endswith("{# other #}") for line in refused.hint.splitlines())


def test_a_chat_is_rendered_with_the_template_that_was_trained_with_where_that_is_wanted(jobs, run, tmp_path):
    asked = {"model": str(tmp_path / "model"), "messages": (Message("user", "hello"),), "run": run.run}
    same = jobs.answer(reading.EncodeChat(id=3, **asked))
    assert (same.difference, same.trained_known) == ("", True)
    (tmp_path / "model" / "chat_template.jinja").write_text(f"Hi: {CHATML}")
    other = jobs.answer(reading.EncodeChat(id=4, **asked))
    assert other.text == f"Hi: {same.text}"
    assert any(line.startswith("+Hi: ") for line in other.difference.splitlines())
    trained = jobs.answer(reading.EncodeChat(id=5, **asked, trained=True))
    assert (trained.text, trained.ids, trained.template_sha256) == (same.text, same.ids, same.template_sha256)
    assert trained.difference == other.difference


def test_that_the_trained_template_is_another_is_said_where_its_text_is_lost(jobs, run, tmp_path):
    change_template(tmp_path)
    (Path(run.run) / "chat_template.jinja").unlink()
    chat = jobs.answer(
        reading.EncodeChat(
            id=3, model=str(tmp_path / "model"), messages=(Message("user", "hello"),), run=run.run
        )
    )
    assert (chat.difference, chat.trained_known) == (NOT_KEPT, False)


def test_a_run_with_columns_of_its_own_is_evaluated_on_a_file_that_has_others(jobs, model, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(
        "".join(json.dumps({"frage": f"a {n}", "antwort": f"b {n}"}) + "\n" for n in range(20)), "utf-8"
    )
    columns = {"prompt": "frage", "answer": "antwort"}
    config = settings(model, own, data__map=columns, data__seq_len=512)
    made = prepare(jobs, tmp_path, config)
    others = chats_file(tmp_path / "test.jsonl", count=7)

    for path, rows in ((str(others), 7), ("general", 100)):
        assert jobs.answer(reading.PrepareEvaluation(id=3, run=made.run, path=path)).rows == rows


def test_rows_that_an_evaluation_misses_are_told(jobs, run, tmp_path):
    file = chats_file(tmp_path / "test.jsonl", count=3)
    long = {"question": "word " * 2000, "answer": "b"}
    file.write_text(file.read_text("utf-8") + json.dumps(long) + '\n{"question": "a"}\n', "utf-8")

    made = jobs.answer(reading.PrepareEvaluation(id=3, run=run.run, path=str(file)))

    skipped, dropped = made.notes
    assert made.rows == 3
    assert skipped.startswith("1 of 5 rows skipped: ")
    assert dropped.startswith("1 chat is longer than ")


def test_where_a_few_rows_ask_for_no_letter_an_evaluation_says_that_none_is_counted(jobs, run, tmp_path):
    file = tmp_path / "test.jsonl"
    asked = [{"question": f"Which, {n}?\nA. a\nB. b", "answer": "ABQ"[n]} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")

    (note,) = jobs.answer(reading.PrepareEvaluation(id=3, run=run.run, path=str(file))).notes

    assert note.startswith(
        "Whole answers are compared, not letters: 1 of 3 rows have none, the first in line 3"
    )
    file.write_text(json.dumps(asked[2]) + "\n", "utf-8")
    assert jobs.answer(reading.PrepareEvaluation(id=4, run=run.run, path=str(file))).notes == ()


def test_rows_of_a_held_out_file_that_can_not_be_read_are_told(jobs, model, tmp_path):
    held_out = chats_file(tmp_path / "held-out.jsonl", count=3)
    held_out.write_text(held_out.read_text("utf-8") + '{"question": "a"}\n', "utf-8")
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), data__validation=str(held_out))

    assert any(
        note.startswith("Held out: 1 of 4 rows skipped: ") for note in prepare(jobs, tmp_path, config).notes
    )


def test_a_target_length_says_that_a_causal_model_has_none(jobs, model, tmp_path):
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), data__target_len=64)

    assert any("for encoder-decoders" in note for note in prepare(jobs, tmp_path, config).notes)


def test_settings_that_spoil_a_run_are_told_before_it_starts(jobs, tmp_path):
    changes = {"training.learning_rate": 1.5, "training.warmup_steps": 9, "training.steps": 3}
    made = prepare(jobs, tmp_path, with_changes(RunConfig(), {"model.path": "shape:smollm2-135m"} | changes))

    _, rate, warmup = made.notes[:3]
    assert rate.startswith("A learning rate of 1.5 is far above the usual 1e-5 to 1e-3")
    assert warmup.startswith("The warm-up of 9 updates is no shorter than the run of 3 updates")


def test_a_shape_is_trained_on_random_rows(jobs, tmp_path):
    config = with_changes(
        RunConfig(), {"model.path": "shape:smollm2-135m", "data.seq_len": 64, "training.steps": 3}
    )

    made = prepare(jobs, tmp_path, config)

    rows = open_prepared(tmp_path / open_run(tmp_path / "runs" / made.run).record.prepared.folder)
    assert (made.steps, made.train_rows) == (3, 48)
    assert rows.train.lengths.tolist() == [64] * 48
    assert rows.train[0].ids.max() < 49152
    assert not np.array_equal(rows.train[0].ids, rows.train[1].ids)
    assert jobs.answer(reading.CheckResume(id=2, run=made.run)).step == 0


def test_text_is_pretrained_on(jobs, model, tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": f"some words {i} " * 30}) + "\n" for i in range(20)))

    made = prepare(jobs, tmp_path, settings(model, file, training__method="pretrain"))

    assert made.train_rows > 20
    assert made.learned_tokens > 20 * 300


@pytest.fixture
def mixed_run(jobs, model, tmp_path):
    files = [chats_file(tmp_path / f"{name}.jsonl", answer=f"{name} {{i}}") for name in ("first", "second")]
    parts = [{"path": str(file), "weight": weight} for file, weight in zip(files, (2.0, 1.0), strict=True)]
    recipe = [{"kind": "rows", "rows": [0]}]
    config = settings(model, "", data__mix=parts, data__recipe=recipe)
    return prepare(jobs, tmp_path, config)


def test_a_mixture_is_prepared_with_its_weights_and_recipe(mixed_run, tmp_path):
    record = open_run(tmp_path / "runs" / mixed_run.run).record

    assert record.name == "first and second tiny"
    assert [part.weight for part in record.config.data.mix] == [2.0, 1.0]
    assert record.config.data.recipe[0].rows == (0,)
    assert mixed_run.report.left_out_by_fixes == 1
    # a tenth of 79 with equal questions on one side: four pairs, and one whose first row is left out
    assert (mixed_run.validation_rows, mixed_run.train_rows) == (9, 2 * 35 + 35)


def test_a_mixture_goes_on_where_nothing_changed(jobs, mixed_run):  # R3
    assert jobs.answer(reading.CheckResume(id=2, run=mixed_run.run)).step == 0


def test_a_file_of_a_mixture_that_changed_is_named(jobs, mixed_run, tmp_path):  # R3
    (tmp_path / "first.jsonl").unlink()
    chats_file(tmp_path / "second.jsonl", answer="other {i}")

    refused = refusal(jobs, reading.CheckResume(id=2, run=mixed_run.run))

    assert "second.jsonl changed" in refused.message


def test_a_cleared_cache_is_filled_again_with_the_same_mixture(jobs, mixed_run, tmp_path, home):  # R3
    folder = tmp_path / open_run(tmp_path / "runs" / mixed_run.run).record.prepared.folder
    before = open_prepared(folder).info.content_sha256
    shutil.rmtree(home / "cache")

    jobs.answer(reading.CheckResume(id=2, run=mixed_run.run))

    assert open_prepared(folder).info.content_sha256 == before


def test_a_run_from_before_there_were_recipes_goes_on(jobs, run):
    file = Path(run.run) / "run.json"
    record = json.loads(file.read_bytes())
    del record["config"]["data"]["recipe"]
    file.write_text(json.dumps(record))

    assert jobs.answer(reading.CheckResume(id=2, run=run.run)).step == 0


FULL = {"training__finetuning": "full", "model__quantization": "none"}


def test_all_weights_that_do_not_fit_are_refused_before_the_start(jobs, model, tmp_path):
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), **FULL)
    needed = sum(prepare(jobs, tmp_path, config, device_memory_bytes=8 * 10**9).promise_bytes.values())

    with pytest.raises(StudioError, match="Not all weights of this model can be trained here") as refused:
        prepare(jobs, tmp_path, config, device_memory_bytes=needed // 2)

    assert refused.value.hint
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_inputs_of_layers_that_have_no_room_in_ram_are_refused_before_the_start(
    jobs, model, tmp_path, monkeypatch
):
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), training__recompute="host")
    on_card = {"device": "cuda", "device_memory_bytes": 80 * 10**9}
    monkeypatch.setattr(run_jobs, "ram_reading", lambda: RamReading(total_bytes=8, free_bytes=8, load=0.0))

    with pytest.raises(StudioError, match=r"The inputs of recomputed layers need .* of RAM") as refused:
        prepare(jobs, tmp_path, config, **on_card)

    assert refused.value.hint.startswith("With recomputing all layers, their inputs on the card it needs ")
    assert not (tmp_path / "runs").exists()
    assert prepare(jobs, tmp_path, config).run  # the same on a processor, where they lie in no other place


def test_a_learning_rate_of_an_adapter_is_told_where_all_weights_learn(jobs, model, tmp_path):
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), **FULL)
    notes = prepare(jobs, tmp_path, config, device_memory_bytes=8 * 10**9).notes
    assert "A learning rate of 0.0002 is high where all weights learn: 1e-6 to 5e-5 are usual." in notes


def test_a_run_that_needs_more_than_the_machine_has_is_refused_with_the_way_on(jobs, tmp_path):
    config = settings("shape:llama-65b", "sample", training__batch_size=1)
    room = {"device_memory_bytes": 22 * 2**30, "device_total_bytes": 24 * 2**30}

    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, config, **room)

    assert refused.value.message.startswith("This run needs ")
    assert refused.value.message.endswith("; this machine has 24.0 GiB in all.")
    assert refused.value.hint == "A smaller model fits: the recipe guanaco-13b needs 19.7 GiB."
    assert not (tmp_path / "runs").exists()


def test_the_weights_are_read_only_once_it_is_known_that_there_is_room(jobs, model, tmp_path, monkeypatch):
    monkeypatch.setattr(run_jobs, "model_sha256", lambda folder, told: pytest.fail("read before"))
    config = settings(model, chats_file(tmp_path / "chats.jsonl"))

    refused = refusal(
        jobs,
        reading.PrepareRun(
            id=1, config=config, name="", runs_dir=str(tmp_path / "runs"), device_total_bytes=10**6
        ),
    )

    assert refused.message.endswith("this machine has 0.0 GiB in all.")


def test_where_other_settings_fit_these_are_the_way_on(jobs, tmp_path):
    config = settings("shape:smollm2-135m", "sample", training__batch_size=16, training__recompute="all")
    needed = sum(prepare(jobs, tmp_path, config, device_memory_bytes=8 * 10**9).promise_bytes.values())

    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, config, device_memory_bytes=needed - 2**20, device_total_bytes=needed - 2**20)

    assert refused.value.hint.startswith("With ")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_only_doesnt_fit_at_the_moment_starts_with_a_note(jobs, model, tmp_path, device):
    """Other programs may end; what the optimizer pages out of a card isn't counted against it."""
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), training__steps=1)
    needed = sum(prepare(jobs, tmp_path, config, device=device).promise_bytes.values())

    run = prepare(
        jobs, tmp_path, config, device=device, device_memory_bytes=needed // 2, device_total_bytes=needed
    )

    assert any("are free." in note for note in run.notes)
