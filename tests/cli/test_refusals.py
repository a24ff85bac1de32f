"""What is typed wrong is refused at once: plain words, status 2, one object where JSON is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_studio import __main__
from qlora_studio.cli.counted import counted

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing slow begins: these are all refused before a child is started."""
    for name in ("engine", "reader"):
        monkeypatch.setattr(f"qlora_studio.cli.children.start_{name}", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"question": "a", "answer": "b"}\n', "utf-8")
    (tmp_path / "nowhere.toml").write_text('[model]\npath = "gone"\n[data]\npath = "gone.jsonl"\n', "utf-8")


def status(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr("sys.argv", ["qlora-studio", *words])
    try:
        return __main__.main()
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), "command is 'bogus'; it must be one of train, resume"),
        (("train",), "Missing: FILE.toml."),
        (("export", "r", "--to", "merged", "--quant", "f16", "--out", "d"), "--quant f16 is for --to gguf."),
        (("export", "r", "--to", "gguf", "--quant", "nf4", "--out", "d"), "--quant nf4 is for --to merged."),
        (("train", "sample", "--set"), "--set needs a value."),
        (("data", "one.jsonl", "--threshold", "7"), "--threshold: it must be over 0 and at most 1, not 7."),
        (("data", "one.jsonl", "--threshold", "x"), "--threshold: it must be over 0 and at most 1, not x."),
        (("train", "--bogus", "sample"), "There is no --bogus here."),
        (("data", "one.jsonl", "--seq-len", "abc"), "--seq-len is 'abc'; it must be a whole number."),
        (("data", "one.jsonl", "--seq-len", "0"), "--seq-len is 0; it must be between 16 and 131,072."),
        (("data", "one.jsonl", "--show", "-1"), "--show is -1; it must be a number of rows."),
        (("data", "one.jsonl", "--map", "question="), "--map question= names no column."),
        (("data", "one.jsonl", "--map", "=a"), "--map =a names no field."),
        (("data", "one.jsonl", "--map", "a"), "--map a has no =."),
        (("data", "one.jsonl", "--model", "gone"), "gone does not exist or can't be read."),
        (("train", "nowhere.toml"), "gone does not exist or can't be read."),
        (("train", "sample", "--set", "data.path=gone.jsonl"), "gone.jsonl isn't there."),
        (("train", "sample", "--set", "checkpoints.questions=gone.json"), "gone.json isn't there."),
        (
            ("estimate", "sample", "--set", "lora.layers=28-30"),
            "lora.layers names layer 30; this model's 30 layers have the numbers 0 to 29.",
        ),
        (
            ("estimate", "sample", "--set", "lora.ranks.fc1=8"),
            "lora.ranks names 'fc1', and no layer of that name gets an adapter.",
        ),
        (
            ("train", "sample", "--set", "lora.start_from=gone"),
            "There is no folder gone, and no run of that name.",
        ),
        (
            ("train", "sample", "--set", "lora=3"),
            "lora: it must be a section of settings, not a whole number.",
        ),
        (("train", "sample", "--set", "lora.r=abc"), "lora.r: it must be a whole number, not text."),
        (("chat", "sample", "--prompt", " "), "--prompt is empty."),
        (("estimate", "sample", "--card", "nan"), "--card is nan; it must be the size of a card in GiB"),
        (("resume", "gone"), "There is no folder gone, and no run of that name."),
    ],
)
def test_what_is_typed_wrong_is_refused_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, words: tuple[str, ...], said: str
) -> None:
    plain = status(monkeypatch, *words), capsys.readouterr()
    as_json = status(monkeypatch, *words, "--json"), capsys.readouterr()

    assert (plain[0], plain[1].out) == (2, "")
    assert plain[1].err.startswith("error: ")
    assert said in plain[1].err
    assert (as_json[0], as_json[1].err) == (2, "")
    (line,) = as_json[1].out.splitlines()
    assert said in json.loads(line)["error"]["message"]


def test_a_page_needs_a_display(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(__main__, "_display", lambda: False)

    assert status(monkeypatch, "--page", "runs") == 2
    assert "no display" in capsys.readouterr().err


def test_one_thing_is_not_called_several() -> None:
    assert [counted(count, "row") for count in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert counted(2, "row is", "rows are") == "2 rows are"
