"""A run's settings: what is read, what is refused, and in which words."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.setting import fields_of, problem_with
from qlora_studio.config.toml_file import parse_assignment, read_run_config, run_config_text, with_changes
from qlora_studio.errors import StudioError


def test_a_file_written_is_read_back_as_the_same_settings(tmp_path: Path):
    config = with_changes(RunConfig(), {"lora.r": 16, "data.validation": "/data/held-out.jsonl"})
    file = tmp_path / "run.toml"
    file.write_text(run_config_text(config), "utf-8")

    assert read_run_config(file) == config


def test_the_design_documents_example_is_read(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text(
        'schema_version = 1\n[model]\npath = "m"\nquantization = "nf4"\n'
        '[data]\npath = "d.jsonl"\nseq_len = 2048\n'
        '[data.map]\nanswer = "reply"\n[[data.recipe]]\nkind = "refusals"\n[lora]\nr = 64\n'
        "[training]\nlearning_rate = 2e-4\nrecompute = 12\n[preference]\nbeta = 0.1\n"
        '[[samples]]\nprompt = "Hi"\nmax_tokens = 64\n',
        "utf-8",
    )

    config = read_run_config(file)

    assert (config.training.recompute, config.data.map, config.samples[0].prompt) == (
        12,
        {"answer": "reply"},
        "Hi",
    )


def test_a_relative_path_starts_from_the_settings_file(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('[model]\npath = "models/m"\n[data]\npath = "sample"\nvalidation = "v.jsonl"\n', "utf-8")

    config = read_run_config(file)

    assert config.model.path == str(tmp_path / "models" / "m")
    assert config.data.path == "sample"
    assert config.data.validation == str(tmp_path / "v.jsonl")


def test_what_is_trained_on_is_a_folder_beside_the_settings_or_the_name_of_a_run(tmp_path: Path):
    (tmp_path / "adapter").mkdir()
    file = tmp_path / "mine.toml"
    for written, read in (("adapter", str(tmp_path / "adapter")), ("my run", "my run")):
        file.write_text(f'[lora]\nstart_from = "{written}"\n', "utf-8")
        assert read_run_config(file).lora.start_from == read


def test_a_relative_path_found_only_in_the_working_folder_is_taken_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "settings").mkdir()
    (tmp_path / "chats.jsonl").touch()
    file = tmp_path / "settings" / "run.toml"
    file.write_text('[data]\npath = "chats.jsonl"\n', "utf-8")
    monkeypatch.chdir(tmp_path)

    assert read_run_config(file).data.path == str(tmp_path / "chats.jsonl")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("lora.r=0", "lora.r is 0; it must be between 1 and 512"),
        ("lora.rank=8", "no setting `rank`"),
        ("training.method=ppo", "one of sft, pretrain, dpo, orpo, kto"),
        ("preference.beta=-1", "preference.beta is -1; it must be between 0.001 and 100"),
        ("training.devices=all", "isn't built yet"),
        ("model.quantization=nf5", "one of nf4, fp4, int8, none"),
        ("training.recompute=most", "one of auto, none, all"),
        ("training.learning_rate=nan", "must be between"),
        ("lora.r=many", "must be a whole number, not text"),
        ("schema_version=2", "newer version"),
    ],
)
def test_a_wrong_value_is_refused_by_key_and_reason(assignment: str, words: str):
    key, value = parse_assignment(assignment)

    with pytest.raises(StudioError, match=words):
        with_changes(RunConfig(), {key: value})


@pytest.mark.parametrize("content", [b"\xff\xfe", b"= 1", b"[model", b"a = " + b"[" * 5000, b"model = 3"])
def test_a_file_that_is_no_settings_file_is_refused_by_name(tmp_path: Path, content: bytes):
    file = tmp_path / "broken.toml"
    file.write_bytes(content)

    with pytest.raises(StudioError, match=r"broken\.toml"):
        read_run_config(file)


def test_every_default_stands_within_its_own_limits():
    assert {problem_with(field, field.default) for field in fields_of(RunConfig)} == {""}


def test_every_setting_has_a_label_and_a_help():
    assert all(field.setting.label and field.setting.help for field in fields_of(RunConfig))


@given(
    st.text(),
    st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())),
)
def test_any_change_gives_settings_or_a_reason(key: str, value: object):
    try:
        changed = with_changes(RunConfig(), {key: value})
    except StudioError:
        return
    assert msgspec.convert(msgspec.to_builtins(changed), RunConfig) == changed


MIXTURE = (
    '[[data.mix]]\npath = "a.jsonl"\nweight = 2\n[[data.mix.recipe]]\nkind = "test_rows"\npath = "t.jsonl"\n'
    '[[data.mix]]\npath = "b.jsonl"\n[[data.recipe]]\nkind = "near_duplicates"\nthreshold = 0.95\n'
)


def test_a_mixture_stands_in_place_of_a_path_and_is_read_back_with_its_recipes(tmp_path: Path):
    file, again = tmp_path / "run.toml", tmp_path / "again.toml"
    file.write_text(MIXTURE, "utf-8")

    config = read_run_config(file)
    again.write_text(run_config_text(config), "utf-8")

    assert (config.data.path, [part.weight for part in config.data.mix]) == ("", [2.0, 1.0])
    assert config.data.mix[0].recipe == (Fix(kind="test_rows", path=str(tmp_path / "t.jsonl")),)
    assert config.data.recipe == (Fix(kind="near_duplicates", threshold=0.95),)
    assert read_run_config(again) == config


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ('[data]\npath = "sample"\n' + MIXTURE, "can't stand together"),
        ('[data]\npath = ""\n', "data.path is empty"),
        (MIXTURE.replace('"b.jsonl"', '"a.jsonl"'), "the same path twice"),
        (MIXTURE.replace("weight = 2", "weight = 101"), "at most 100"),
        (MIXTURE.replace("weight = 2", "weight = 0"), "above 0"),
        (MIXTURE.replace("0.95", "0.3"), "between 0.7 and 1"),
        (MIXTURE.replace("near_duplicates", "near_misses"), "data.recipe"),
        (MIXTURE.replace('path = "t.jsonl"\n', ""), "test_rows, which needs it"),
        (MIXTURE.replace("threshold = 0.95", 'encoding = "big5"'), "that of its file"),
        ('[data]\nvalidation_encoding = "big5"\n', "data.validation names none"),
        ('[[data.recipe]]\nkind = "rows"\n', "which needs some"),
        ('[[data.recipe]]\nkind = "rows"\nrows = [-1]\n', "counted from 0"),
    ],
)
def test_a_mixture_or_recipe_that_can_not_stand_is_refused_by_key(tmp_path: Path, changed: str, words: str):
    file = tmp_path / "run.toml"
    file.write_text(changed, "utf-8")

    with pytest.raises(StudioError, match=words):
        read_run_config(file)


def test_settings_from_before_there_were_recipes_are_read():
    values = msgspec.to_builtins(RunConfig())
    del values["data"]["recipe"]

    assert msgspec.convert(values, RunConfig) == RunConfig()
