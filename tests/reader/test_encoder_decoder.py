"""Runs of an encoder-decoder are made ready: sources, targets, their limits, and what is refused."""

import json

import pytest

from qlora_studio.config.run_config import DataConfig, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.choice_questions import choice_questions
from qlora_studio.data.conversation import Message
from qlora_studio.data.prepared import open_prepared
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.runs.folder import open_run
from tests.reader.whole_model import chats_file, whole_model
from tests.reader.whole_t5 import END, PAD, whole_t5, whole_t5_without_lines


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return whole_t5(tmp_path_factory.mktemp("models") / "tiny-t5")


def settings(model, data, **changes):
    values = {"model.path": str(model), "data.path": str(data), "data.seq_len": 64, "data.validation": 0.1}
    return with_changes(RunConfig(), values | {key.replace("__", "."): item for key, item in changes.items()})


def prepare(jobs, tmp_path, config, **fields):
    return jobs.answer(
        reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs"), **fields)
    )


def prepared_rows(tmp_path, run):
    record = open_run(tmp_path / "runs" / run.run).record
    return record, open_prepared(tmp_path / record.prepared.folder)


def lines(file, *objects):
    file.write_text("".join(f"{json.dumps(item)}\n" for item in objects))
    return file


def text_of(t5, ids):
    return load_tokenizer(t5).decode([int(id) for id in ids])


def test_a_row_is_the_source_with_its_end_then_the_target_with_its_own(jobs, t5, tmp_path):
    run = prepare(jobs, tmp_path, settings(t5, chats_file(tmp_path / "chats.jsonl")))

    record, rows = prepared_rows(tmp_path, run)
    row = rows.train[0]
    source, target = row.ids[: row.second], row.ids[row.second :]
    number = rows.train[0].row
    assert text_of(t5, source) == f"hello {number}?"
    assert source[-1] == END
    assert target[0] == PAD
    assert text_of(t5, target) == f"answer {number}"
    assert target[-1] == END
    assert row.weights.tolist() == [0.0] * (len(source) + 1) + [1.0] * (len(target) - 1)
    assert len(rows.info.samples) == 3
    assert not record.config.data.packing
    assert any("aren't packed" in note for note in record.notes)
    assert any("last answer" in note for note in record.notes)


def test_a_causal_model_is_made_ready_as_ever(jobs, tmp_path):
    model = whole_model(tmp_path / "causal")

    run = prepare(jobs, tmp_path, settings(model, chats_file(tmp_path / "chats.jsonl")))

    record, rows = prepared_rows(tmp_path, run)
    assert record.config.data.packing
    assert rows.train[0].second == 0
    assert not any("packed" in note for note in record.notes)


def test_of_a_longer_chat_the_last_answer_is_the_target_and_the_rest_says_who_speaks(jobs, t5, tmp_path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ]
    data = lines(tmp_path / "chats.jsonl", *[{"messages": chat}] * 1, {"messages": [*chat[1:3]]})

    run = prepare(jobs, tmp_path, settings(t5, data, data__validation=0.0))

    _, rows = prepared_rows(tmp_path, run)
    texts = {
        rows.train[i].row: [
            text_of(t5, part)
            for part in (rows.train[i].ids[: rows.train[i].second], rows.train[i].ids[rows.train[i].second :])
        ]
        for i in range(2)
    }
    assert texts == {
        0: ["Be brief.\nUser: Hi\nAssistant: Hello\nUser: Bye", "See you"],
        1: ["Hi", "Hello"],
    }


def test_a_file_without_targets_is_refused_with_the_way_on(jobs, t5, tmp_path):
    data = tmp_path / "text.txt"
    data.write_text("A text.\n\nAnother one, without a question.\n")

    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, settings(t5, data))

    assert "without a target" in refused.value.message
    assert str(data) in refused.value.message
    assert "questions with answers" in refused.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_file_held_out_without_targets_is_refused_with_the_way_on(jobs, t5, tmp_path):
    held_out = tmp_path / "text.txt"
    held_out.write_text("A text alone.\n")
    config = settings(t5, chats_file(tmp_path / "chats.jsonl"), data__validation=str(held_out))

    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, config)

    assert str(held_out) in refused.value.message
    assert "pairs of a source and a target" in refused.value.hint


def test_where_every_target_is_too_long_its_limit_is_what_to_raise(jobs, t5, tmp_path):
    config = settings(t5, chats_file(tmp_path / "chats.jsonl"), data__target_len=2)
    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, config)
    assert "or 2 of target" in refused.value.message
    assert "the target length" in refused.value.hint


def test_rows_without_targets_among_others_are_counted_and_told(jobs, t5, tmp_path):
    whole = [{"question": f"Q {i}?", "answer": f"A {i}"} for i in range(20)]
    data = lines(tmp_path / "chats.jsonl", *whole)
    text = tmp_path / "text.txt"
    text.write_text("A text alone.\n")
    config = settings(t5, data)
    mix = [{"path": str(data)}, {"path": str(text)}]
    config = with_changes(config, {"data.path": "", "data.mix": mix})

    run = prepare(jobs, tmp_path, config)

    _, rows = prepared_rows(tmp_path, run)
    assert rows.info.train_rows + rows.info.validation_rows == 20
    assert "1 row without a target: left out." in rows.info.notes


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"data__seq_len": 16}, "The source in line 2 has 41 tokens; the sequence length is 16."),
        ({"data__target_len": 4}, "The target in line 1 has 6 tokens; the target length is 4."),
    ],
)
def test_source_and_target_have_a_limit_each(jobs, t5, tmp_path, limits, message):
    data = lines(
        tmp_path / "chats.jsonl",
        {"question": "short", "answer": "reply"},
        {"question": "x" * 40, "answer": "y"},
    )

    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, settings(t5, data, data__too_long="stop", **limits))

    assert refused.value.message == message


def test_a_source_that_is_cut_keeps_its_end_and_a_target_that_is_cut_has_none(jobs, t5, tmp_path):
    data = lines(tmp_path / "chats.jsonl", {"question": "x" * 40, "answer": "y" * 9})
    limits = {"data__seq_len": 16, "data__target_len": 4, "data__too_long": "truncate"}

    run = prepare(jobs, tmp_path, settings(t5, data, data__validation=0.0, **limits))

    _, rows = prepared_rows(tmp_path, run)
    row = rows.train[0]
    assert text_of(t5, row.ids[: row.second]) == "x" * 15
    assert row.ids[row.second - 1] == END
    assert text_of(t5, row.ids[row.second :]) == "y" * 4
    assert row.ids[-1] != END
    assert row.learned_tokens == 4


def test_another_target_length_prepares_other_rows(jobs, t5, tmp_path):
    data = chats_file(tmp_path / "chats.jsonl")
    folders = {
        prepared_rows(tmp_path, prepare(jobs, tmp_path, settings(t5, data, data__target_len=most)))[1].folder
        for most in (64, 65)
    }
    assert len(folders) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"training__method": "dpo"},
        {"training__method": "kto"},
        {"training__method": "pretrain"},
        {"data__train_on": "everything"},
        {"training__finetuning": "full", "model__quantization": "none"},
        {"lora__layers": "0-1"},
        {"lora__ranks": {"q": 4}},
    ],
)
def test_what_an_encoder_decoder_does_not_learn_is_refused(jobs, t5, tmp_path, changes):
    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, settings(t5, chats_file(tmp_path / "chats.jsonl"), **changes))
    assert "encoder-decoder" in refused.value.message
    assert refused.value.hint


def test_what_mends_it_is_named_as_a_terminal_takes_it(jobs, t5, tmp_path):
    config = settings(t5, chats_file(tmp_path / "chats.jsonl"), data__train_on="everything")
    with pytest.raises(StudioError) as refused:
        prepare(jobs, tmp_path, config)
    assert "(--set data.train_on=answers)" in refused.value.hint


def test_a_chat_ends_with_the_token_that_the_decoder_starts_with(jobs, t5):
    answer = jobs.answer(reading.EncodeChat(id=1, model=str(t5), messages=(Message("user", "hello <pad>"),)))

    assert answer.text == "hello <pad>"
    assert answer.ids[-2:] == (END, PAD)
    assert PAD not in answer.ids[:-1]  # the name in the text stays text
    assert END in answer.stop_ids


def test_the_tokens_of_a_row_are_shown_by_source_and_target(jobs, t5, tmp_path):
    data = lines(tmp_path / "chats.jsonl", {"question": "ab", "answer": "cd"})
    config = DataConfig(path=str(data), seq_len=64)
    imported = jobs.answer(reading.ImportData(id=1, data=config))

    shown = jobs.answer(reading.ShowTokens(id=2, dataset=imported.dataset, model=str(t5), data=config, row=0))

    assert [(token.text, token.fate) for token in shown.tokens] == [
        ("a", "context"),
        ("b", "context"),
        ("</s>", "context"),
        ("<pad>", "context"),
        ("c", "learned"),
        ("d", "learned"),
        ("</s>", "learned"),
    ]
    assert shown.text == "ab\ncd"


def test_counting_tells_sources_from_targets(jobs, t5, tmp_path):
    data = lines(
        tmp_path / "chats.jsonl",
        {"question": "ab", "answer": "cd"},
        {"question": "abcdef", "answer": "c"},
        {"question": "a", "answer": "cdefgh"},
    )
    config = DataConfig(path=str(data), seq_len=16, target_len=4)
    imported = jobs.answer(reading.ImportData(id=1, data=config))

    counted = jobs.answer(reading.CountTokens(id=2, dataset=imported.dataset, model=str(t5), data=config))

    assert counted.has_source
    assert (counted.longest_source, counted.longest_target) == (7, 7)
    assert counted.too_long == 1
    assert sum(counted.bins) == 3


def test_the_doctor_finds_rows_that_are_too_long_by_their_source_or_by_their_target(jobs, t5, tmp_path):
    data = lines(
        tmp_path / "chats.jsonl",
        {"question": "abcdefgh", "answer": "cdefgh"},  # together more than either limit, and neither too long
        {"question": "a" * 12, "answer": "c"},
        {"question": "a", "answer": "c" * 12},
    )
    config = DataConfig(path=str(data), seq_len=10, target_len=8)
    imported = jobs.answer(reading.ImportData(id=1, data=config))

    request = reading.Diagnose(id=2, dataset=imported.dataset, data=config, model=str(t5))
    found = {finding.kind: finding for finding in jobs.answer(request).findings}

    assert found["too_long"].rows == (1, 2)
    assert "longer than 10 tokens of source or 8 of target" in found["too_long"].words


def test_a_plain_text_has_no_perplexity(jobs, t5, tmp_path):
    (tmp_path / "text.txt").write_text("Some words.\n")
    with pytest.raises(StudioError, match="encoder-decoder"):
        jobs.answer(reading.PrepareText(id=1, model=str(t5), path=str(tmp_path / "text.txt")))


def test_the_check_of_a_model_knows_its_decoder(jobs, t5):
    report = jobs.answer(reading.CheckModel(id=1, folder=str(t5))).report

    assert report.family == "t5"
    assert report.shape.decoder.layers == 2
    assert report.target_modules == ("q", "k", "v", "o", "wi_0", "wi_1", "wo")


def test_a_tokenizer_without_lines_is_told(jobs, t5, tmp_path):
    words = "Its tokenizer makes a space of a line's end: what is learned and written is one line."
    data = chats_file(tmp_path / "chats.jsonl")
    without = whole_t5_without_lines(tmp_path / "t5")

    notes = [
        prepared_rows(tmp_path, prepare(jobs, tmp_path, settings(model, data)))[0].notes
        for model in (without, t5)
    ]

    assert [words in found for found in notes] == [True, False]


def multiple_choice(number, answer):
    choices = ["one", "two", "J. Doe", "four"]
    return {"question": f"Is it {number}?", "choices": choices, "answer": answer}


def test_questions_with_choices_are_known_where_a_lines_end_is_no_token(jobs, tmp_path):
    t5 = whole_t5_without_lines(tmp_path / "t5")
    data = lines(tmp_path / "chats.jsonl", *[{"question": f"Q {i}?", "answer": f"A {i}"} for i in range(20)])
    asked = lines(tmp_path / "asked.jsonl", *[multiple_choice(number, number % 4) for number in range(6)])
    config = settings(t5, data, checkpoints__questions=str(asked))

    run = prepare(jobs, tmp_path, config)

    record = open_run(tmp_path / "runs" / run.run).record
    questions = open_prepared(tmp_path / record.prepared.questions)
    found = choice_questions(questions, load_tokenizer(t5))
    assert [question.letters for question in found] == ["ABCD"] * 6
    assert sorted(question.right for question in found) == [0, 0, 1, 1, 2, 3]
    assert all(question.text.endswith("?") and len(question.text) <= 100 for question in found)
    tokenizer = load_tokenizer(t5)
    assert [tokenizer.name_of(id) for id in found[0].letter_ids] == ["▁A", "▁B", "▁C", "▁D"]


def test_spaces_that_a_tokenizer_drops_are_shown_all_the_same(jobs, tmp_path):
    t5 = whole_t5_without_lines(tmp_path / "t5")
    data = lines(tmp_path / "chats.jsonl", {"question": "hello hello  A\nB", "answer": "hello A"})
    config = DataConfig(path=str(data), seq_len=64)
    imported = jobs.answer(reading.ImportData(id=1, data=config))

    shown = jobs.answer(reading.ShowTokens(id=2, dataset=imported.dataset, model=str(t5), data=config, row=0))

    assert "".join(token.text for token in shown.tokens) == "hello hello  A\nB</s><pad>hello A</s>"
