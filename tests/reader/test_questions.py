"""Questions that a run asks at its evaluations: the official MMLU files of QLoRA, read as they are."""

import json
import shutil
from pathlib import Path

import pytest

from qlora_studio.config.run_config import QUESTION_TOKENS, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.prepared import open_prepared
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.runs.folder import open_run
from tests.reader.test_run_jobs import prepare, refusal, settings
from tests.reader.whole_model import chats_file

HEADER = "The following are multiple choice questions (with answers) about  {}.\n\n"
QUESTION = "Is it {}?\nA. yes\nB. no\nC. so\nD. or\nAnswer:"


def mmlu_file(file: Path, shots: int, count: int = 4, padding: int = 0) -> Path:
    """As data/mmlu of the official code has it: subject, input and output, the examples in the input."""
    lines = []
    for number in range(count):
        subject = ("law", "anatomy")[number % 2]
        examples = "".join(f"{QUESTION.format(f'{subject} {shot}')} B\n\n" for shot in range(shots))
        text = HEADER.format(subject) + examples + "x" * padding * (number == 0) + QUESTION.format(number)
        lines.append(json.dumps({"subject": subject, "input": text, "output": "ABCD"[number % 4]}))
    file.write_text("\n".join(lines), "utf-8")
    return file


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("format", ["auto", "question_answer"])
def test_the_official_files_are_asked_whole_however_short_the_rows_are(jobs, model, tmp_path, shots, format):
    file = mmlu_file(tmp_path / "mmlu.json", shots)
    config = settings(
        model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(file), data__format=format
    )

    record = open_run(Path(prepare(jobs, tmp_path, config).run)).record

    asked = open_prepared(Path(record.prepared.questions))
    assert (len(asked.train), len(asked.validation)) == (0, 4)
    row = asked.validation[1]
    said = load_tokenizer(model).decode(row.ids.tolist())
    assert said.count("Answer:") == shots + 1
    assert HEADER.format("anatomy").strip() in said
    assert row.learned_tokens <= 3  # the letter, and what ends a turn
    assert len(open_prepared(Path(record.prepared.folder)).validation) == record.prepared.validation_rows


def test_a_question_that_is_longer_than_any_is_left_out_and_told(jobs, model, tmp_path):
    file = mmlu_file(tmp_path / "mmlu.json", 5, padding=QUESTION_TOKENS)
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(file))

    made = prepare(jobs, tmp_path, config)

    assert len(open_prepared(Path(open_run(Path(made.run)).record.prepared.questions)).validation) == 3
    assert any(note.startswith("Questions: 1 ") for note in made.notes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"output": "Q"}, "line 3: its answer, 'Q', is none of the letters A to D"),
        ({"output": "the second"}, "line 3: its answer, 'the second', is none of the letters A to D"),
        ({"input": "Is it so?"}, "line 3: its question has no choices in lines from A on"),
    ],
)
def test_a_file_with_a_row_that_asks_for_no_letter_is_refused_by_that_row(
    jobs, model, tmp_path, changes, why
):
    file = mmlu_file(tmp_path / "mmlu.json", 0)
    lines = file.read_text("utf-8").splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | changes)
    file.write_text("\n".join(lines), "utf-8")
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(file))

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))

    assert f"{file} is no multiple choice: {why}." == refused.message
    assert not (tmp_path / "runs").exists()


def test_questions_that_can_not_be_read_are_told(jobs, model, tmp_path):
    file = mmlu_file(tmp_path / "mmlu.json", 0)
    file.write_text(file.read_text("utf-8")[:-30], "utf-8")  # broken off
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(file))

    made = prepare(jobs, tmp_path, config)

    (note,) = [note for note in made.notes if note.startswith("Questions: ")]
    assert note.startswith("Questions: 1 of 4 rows skipped: ") and "line 4" in note


def test_a_run_goes_on_where_the_cache_was_cleared_unless_the_file_changed(jobs, model, tmp_path, home):
    file = mmlu_file(tmp_path / "mmlu.json", 5)
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(file))
    run = prepare(jobs, tmp_path, config).run
    folder = Path(open_run(Path(run)).record.prepared.questions)
    shutil.rmtree(home / "cache")

    assert jobs.answer(reading.CheckResume(id=1, run=run)).step == 0
    assert folder.is_dir()

    shutil.rmtree(folder)
    mmlu_file(file, 4)
    refused = refusal(jobs, reading.CheckResume(id=2, run=run))
    assert f"{file} changed" in refused.message


def test_a_file_that_is_missing_is_named(jobs, model, tmp_path):
    config = settings(
        model, chats_file(tmp_path / "chats.jsonl"), checkpoints__questions=str(tmp_path / "gone.json")
    )
    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))
    assert "gone.json" in refused.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkpoints.evaluate_letters": True}, "checkpoints.evaluate_letters can't stand together"),
        ({"checkpoints.evaluate_numbers": 5}, "checkpoints.evaluate_numbers can't stand together"),
        ({"data.validation": 0.0}, "data.validation = 0 makes none"),
        ({"model.path": "shape:llama-7b"}, "shape:llama-7b has none"),
    ],
)
def test_what_it_can_not_stand_with_is_refused_with_a_way_on(changes, reason):
    with pytest.raises(StudioError) as refused:
        with_changes(RunConfig(), {"checkpoints.questions": "/data/mmlu.json"} | changes)
    assert reason in refused.value.message
    assert refused.value.hint
