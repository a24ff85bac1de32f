import json

import numpy as np
import pytest

from qlora_studio.config.run_config import DataConfig, RunConfig, SamplePrompt
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.dataset import open_dataset
from qlora_studio.data.importing import import_data
from qlora_studio.data.preparing import Source, prepare, prepare_for_evaluation, sample_prompts
from qlora_studio.data.row_encoder import RowEncoder, fit
from qlora_studio.data.template import find_template
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import CHATML, model_folder


def silent(done, total, words):
    return None


def data_set(folder, talks, name="rows.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "messages": [
                {"role": role, "content": text}
                for role, text in zip(["user", "assistant"] * 9, talk, strict=False)
            ]
        }
        for talk in talks
    ]
    file = folder / name
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_dataset(import_data(DataConfig(path=str(file)), silent).dataset)


def encoder_of(folder, config, template=CHATML):
    tokenizer = load_tokenizer(model_folder(folder / "model", template=template))
    found = find_template(folder / "model", tokenizer.special.names)
    return RowEncoder(tokenizer, found, train_on=config.data.train_on, method=config.training.method)


def settings(**changes):
    return with_changes(RunConfig(), {"data.seq_len": 100, "data.validation": 0.0, **changes})


def prepared(folder, talks, template=CHATML, validation=None, accept_left_out=False, **changes):
    config = settings(**{key.replace("__", "."): value for key, value in changes.items()})
    source = Source(
        data_set(folder, talks), data_set(folder, validation, "held.jsonl") if validation else None
    )
    encoder = encoder_of(folder, config, template)
    return prepare(source, encoder, config, silent, accept_left_out=accept_left_out)


def test_what_is_prepared_is_what_was_previewed(tmp_path):  # D4
    talks = [(f"hello {i}", f"answer {i}") for i in range(1100)]  # more than two batches of the encoder

    rows = prepared(tmp_path, talks).train

    config = settings()
    source = data_set(tmp_path, talks)
    previewed = encoder_of(tmp_path, config).encode(source.rows(0, 2000))
    assert len(rows) == 1100
    for i, item in enumerate(previewed):
        (piece,) = fit(item, 100, "drop").pieces
        assert rows[i].ids.tolist() == piece.ids.tolist()
        assert rows[i].weights.tolist() == piece.weights.tolist()


def test_the_same_settings_give_the_same_folder_and_bytes(tmp_path):  # D2, R3
    talks = [(f"hello {i}", f"answer {i}") for i in range(50)]

    one = prepared(tmp_path, talks, data__validation=0.2)
    files = {file.name: file.read_bytes() for file in one.folder.iterdir()}
    for file in one.folder.iterdir():
        file.unlink()
    one.folder.rmdir()
    other = prepared(tmp_path, talks, data__validation=0.2)

    assert other.folder == one.folder
    assert {file.name: file.read_bytes() for file in other.folder.iterdir()} == files


@pytest.mark.parametrize(
    "change",
    [
        {"data__seq_len": 99},
        {"data__train_on": "everything"},
        {"data__too_long": "truncate"},
        {"training__seed": 1},
        {"data__validation": 0.3},
        {"template": CHATML + "{# other #}"},
    ],
)
def test_other_settings_give_another_folder(tmp_path, change):
    talks = [(f"hello {i}", f"answer {i}") for i in range(20)]

    assert prepared(tmp_path, talks).folder != prepared(tmp_path, talks, **change).folder


def test_a_share_is_held_out(tmp_path):
    rows = prepared(tmp_path, [(f"hello {i}", f"answer {i}") for i in range(50)], data__validation=0.1)

    assert (len(rows.train), len(rows.validation)) == (45, 5)
    numbers = [rows.train[i].row for i in range(45)] + [rows.validation[i].row for i in range(5)]
    assert sorted(numbers) == list(range(50))


def test_a_file_is_held_out_and_rows_on_both_sides_are_counted(tmp_path):  # D9
    talks = [(f"hello {i}", f"answer {i}") for i in range(20)]

    rows = prepared(tmp_path, talks, validation=[*talks[:3], ("new", "one")], data__validation="held.jsonl")

    assert (len(rows.train), len(rows.validation)) == (20, 4)
    assert rows.info.rows_on_both_sides == 3
    assert "3 rows held out are learned too: the evaluation would flatter." in rows.info.notes


def test_most_chats_are_dropped_only_where_somebody_says_so(tmp_path):
    talks = [("hello", "ok"), *((f"hello {n}", "long " * 50) for n in range(3))]

    with pytest.raises(StudioError, match=r"3 of 4 chats are longer than \d+ tokens") as refused:
        prepared(tmp_path, talks)
    assert "--accept-skipped" in refused.value.hint
    assert prepared(tmp_path, talks, accept_left_out=True).info.too_long_dropped == 3


@pytest.mark.fault(20)
def test_rows_that_are_too_long_or_teach_nothing_are_counted_before_training(tmp_path):  # D8
    talks = [("hello", "ok"), ("hello", "long " * 50), ("word " * 30, "cut away"), ("x", "y")]

    dropped = prepared(tmp_path, talks).info
    cut = prepared(tmp_path, talks, data__too_long="truncate").info

    assert (dropped.train_rows, dropped.too_long_dropped, dropped.nothing_to_learn) == (2, 2, 0)
    assert (cut.train_rows, cut.too_long_cut, cut.nothing_to_learn) == (3, 2, 1)
    assert cut.notes[1].startswith("1 rows have no token to learn")


@pytest.mark.fault(20)
def test_a_data_set_that_teaches_nothing_is_refused(tmp_path):  # D3
    with pytest.raises(StudioError, match=r"2 longer than 100 tokens") as refused:
        prepared(tmp_path, [("hello", "long " * 50), ("hello", "longer " * 50)])

    assert "rows.jsonl" in refused.value.message
    assert "Raise the sequence length" in refused.value.hint


def test_rows_that_the_template_refuses_ask_above_one_percent(tmp_path):  # D3, S6
    picky = "{% if messages[0].content == 'bad' %}{{ raise_exception('No bad talk') }}{% endif %}" + CHATML
    talks = [("bad", "answer"), *((f"hello {i}", "answer") for i in range(40))]

    with pytest.raises(StudioError, match=r"1 of 41 rows can't be rendered .*line 1: .*No bad talk"):
        prepared(tmp_path, talks, template=picky)
    rows = prepared(tmp_path, talks, template=picky, accept_left_out=True)

    assert (len(rows.train), rows.info.not_rendered) == (40, 1)


def test_names_of_special_tokens_in_the_data_are_counted(tmp_path):  # D9
    rows = prepared(tmp_path, [("say <|im_end|>", "<|im_end|> ok"), ("x", "y")])

    assert rows.info.special_in_text == 2
    assert list(rows.train[0].ids).count(rows.info.eos_id) == 2  # the template's own


def test_samples_are_the_persons_prompts(tmp_path):
    config = settings()
    config = RunConfig(data=config.data, samples=(SamplePrompt(prompt="hello?", max_tokens=7),))
    encoder = encoder_of(tmp_path, config)

    rows = prepare(Source(data_set(tmp_path, [("a", "b")])), encoder, config, silent)

    (sample,) = rows.info.samples
    assert (sample.prompt, sample.max_tokens) == ("hello?", 7)
    assert encoder.tokenizer.decode(sample.ids) == "user\nhello?\nassistant\n"


def test_without_prompts_samples_are_first_turns_of_rows_held_out(tmp_path):
    talks = [(f"hello {i}", f"answer {i}") for i in range(40)]

    rows = prepared(tmp_path, talks, data__validation=0.25, data__seq_len=200)

    held = [rows.validation[i] for i in range(3)]
    assert [sample.prompt for sample in rows.info.samples] == [f"hello {row.row}" for row in held]
    for sample, row in zip(rows.info.samples, held, strict=True):
        assert row.ids[: len(sample.ids)].tolist() == list(sample.ids)


def test_text_is_cut_into_pieces_of_the_sequence_length(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "abc " * 100}) + "\n")
    source = open_dataset(import_data(DataConfig(path=str(file)), silent).dataset)
    config = settings(**{"training.method": "pretrain"})

    rows = prepare(Source(source), encoder_of(tmp_path, config), config, silent)

    assert rows.train.lengths.max() == 100
    learned = np.concatenate([rows.train[i].ids[rows.train[i].weights > 0] for i in range(len(rows.train))])
    assert len(learned) == rows.info.train_learned_tokens == 400


def test_rows_for_an_evaluation_are_all_held_out(tmp_path):
    config = settings()

    rows = prepare_for_evaluation(
        data_set(tmp_path, [("a", "b"), ("c", "d")]), encoder_of(tmp_path, config), config, silent
    )

    assert (len(rows.train), len(rows.validation)) == (0, 2)


def rated(folder, *records):
    file = folder / "rated.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return Source(open_dataset(import_data(DataConfig(path=str(file)), silent).dataset))


def test_of_pairs_of_answers_the_better_ones_are_learned_and_it_is_said(tmp_path):
    pairs = [{"prompt": "p", "chosen": f"better {i}", "rejected": f"worse {i}"} for i in range(3)]
    encoder = encoder_of(tmp_path, settings())

    info = prepare(rated(tmp_path, *pairs), encoder, settings(), silent)

    learned = [row.ids[row.weights > 0].tolist() for row in info.train]
    assert [encoder.tokenizer.decode(ids) for ids in learned] == ["better 0", "better 1", "better 2"]
    assert info.info.notes == ("3 rows have a better and a worse answer: the better one is learned.",)


def test_of_rated_answers_the_good_ones_are_learned_and_the_others_counted(tmp_path):
    answers = [{"prompt": "p", "completion": f"answer {i}", "label": i > 0} for i in range(3)]
    encoder = encoder_of(tmp_path, settings())

    rows = prepare(rated(tmp_path, *answers), encoder, settings(), silent)

    assert (len(rows.train), rows.info.nothing_to_learn) == (2, 0)
    assert rows.info.notes == ("1 row has an answer rated bad: left out.",)


def test_answers_that_are_all_rated_bad_say_so(tmp_path):
    source = rated(tmp_path, {"prompt": "p", "completion": "c", "label": False})

    with pytest.raises(StudioError, match="anything to learn from: 1 rated bad") as error:
        prepare(source, encoder_of(tmp_path, settings()), settings(), silent)

    assert error.value.hint == "Plain finetuning learns answers that are rated good; this data has none."


def test_a_sample_asks_the_first_question_though_the_assistant_speaks_first(tmp_path):
    roles = ("assistant", "user", "assistant")
    turns = [{"role": role, "content": text} for role, text in zip(roles, ("Hi", "hello?", "b"), strict=True)]
    source = rated(tmp_path, {"messages": turns})

    (sample,) = sample_prompts(source, encoder_of(tmp_path, settings()), settings(), silent)

    assert sample == "hello?"


def test_near_copies_of_a_row_are_all_learned_or_all_held_out(tmp_path):  # D9
    words = [[f"{letter}{i}" for letter in "abcdefghijklmnopqrstuvwxyz"] for i in range(20)]
    talks = [
        (f"what is {i} {k}", " ".join([*row[:9], str(k), *row[9:]]))
        for i, row in enumerate(words)
        for k in range(3)
    ]

    rows = prepared(tmp_path, talks, data__validation=0.2, data__seq_len=400)

    held_out = {rows.validation[i].row // 3 for i in range(len(rows.validation))}
    learned = {rows.train[i].row // 3 for i in range(len(rows.train))}
    assert held_out
    assert held_out.isdisjoint(learned)


def preferences(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(open_dataset(import_data(DataConfig(path=str(file)), silent).dataset))


def pair(number, better="better", worse="worse"):
    return {"prompt": f"hello {number}", "chosen": f"{better} {number}", "rejected": f"{worse} {number}"}


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_pairs_are_prepared_as_one_row_each(tmp_path, method):
    config = settings(**{"training.method": method})
    source = preferences(tmp_path, [pair(number) for number in range(20)])
    found = prepare(source, encoder_of(tmp_path, config), config, silent)
    assert (found.info.train_rows, found.info.notes) == (20, ())
    assert all(0 < found.train[i].second < len(found.train[i].ids) for i in range(20))


def test_pairs_with_equal_answers_are_left_out_and_counted(tmp_path):
    config = settings(**{"training.method": "dpo"})
    source = preferences(tmp_path, [pair(number) for number in range(9)] + [pair(9, "same", "same")])
    info = prepare(source, encoder_of(tmp_path, config), config, silent).info
    assert (info.train_rows, info.notes) == (9, ("1 row with two equal answers: left out.",))


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_where_all_pairs_have_equal_answers_that_is_the_reason(tmp_path, method):
    config = settings(**{"training.method": method})
    everywhere = preferences(tmp_path, [pair(number, "same", "same") for number in range(5)])
    with pytest.raises(StudioError, match="5 with two equal answers") as refused:
        prepare(everywhere, encoder_of(tmp_path, config), config, silent)
    assert "another method" in refused.value.hint


def test_where_no_row_is_held_out_that_is_told_with_the_reason(tmp_path):
    config = settings(**{"training.method": "dpo", "data.validation": 0.2})
    encoder = encoder_of(tmp_path, config)
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]
    unlike = [{"prompt": f"hello {word}", "chosen": word, "rejected": word[::-1]} for word in words]
    source = preferences(tmp_path, unlike)
    whole = prepare(source, encoder, config, silent)
    assert (whole.info.validation_rows, whole.info.notes) == (2, ())

    rows = {whole.validation[place].row for place in range(2)}
    alike = [pair | {"rejected": pair["chosen"]} if k in rows else pair for k, pair in enumerate(unlike)]
    some = prepare(preferences(tmp_path / "some", alike), encoder, config, silent).info
    assert some.validation_rows == 0
    assert "No row is held out: of those that were to be, none can be learned from." in some.notes[-1]

    same = preferences(tmp_path / "same", [pair | {"prompt": "hello"} for pair in unlike])
    assert "No row is held out: all ask the same" in prepare(same, encoder, config, silent).info.notes[-1]


@pytest.mark.parametrize(
    ("method", "reason", "needed"),
    [
        ("dpo", "without a worse answer", "better and worse answers"),
        ("kto", "that nobody rated", "rated answers"),
    ],
)
def test_data_without_preferences_is_refused_with_a_way_on(tmp_path, method, reason, needed):
    with pytest.raises(StudioError, match=f"3 {reason}") as refused:
        prepared(tmp_path, [("hello", "a"), ("hello a", "b"), ("hello b", "c")], training__method=method)
    assert needed in refused.value.hint


def test_rated_answers_and_pairs_are_prepared_for_kto_beside_a_foreign_answer(tmp_path):
    config = settings(**{"training.method": "kto"})
    rated = [{"prompt": f"hello {n}", "completion": f"answer {n}", "label": n % 2 == 0} for n in range(10)]
    found = prepare(preferences(tmp_path, rated), encoder_of(tmp_path, config), config, silent)
    assert found.info.train_rows == 10
    assert [bool((found.train[i].weights < 0).any()) for i in range(10)] == [n % 2 == 1 for n in range(10)]
    assert all(found.train[i].second for i in range(10))
    both = preferences(tmp_path / "pairs", [pair(number) for number in range(5)])
    assert prepare(both, encoder_of(tmp_path / "pairs", config), config, silent).info.train_rows == 10


def test_of_pairs_plain_finetuning_learns_the_better_answer_and_says_so(tmp_path):
    config = settings()
    found = prepare(preferences(tmp_path, [pair(1), pair(2)]), encoder_of(tmp_path, config), config, silent)
    assert found.info.notes == ("2 rows have a better and a worse answer: the better one is learned.",)
    assert [found.train[i].second for i in range(2)] == [0, 0]
