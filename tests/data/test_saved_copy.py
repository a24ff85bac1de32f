"""A copy of imported rows gives the same rows when it is imported."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.data.conversation import Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.formats import READ
from qlora_studio.data.saved_copy import save_rows
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_path
from tests.data.test_doctor import chat, silent
from tests.data.test_mix import mixed
from tests.data.test_recipe import RECORDS, mended, write

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(str.strip)
CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1e5}'}}


def said(dataset: Dataset) -> list[Row]:
    """The rows without where they stand."""
    return [msgspec.structs.replace(row, line=0, file="") for row in dataset]


def saved(dataset: Dataset, to: Path) -> Dataset:
    save_rows(dataset, to, silent)
    return import_path(to)


TOOLS = {"tools": [{"type": "function", "function": {"name": "add", "parameters": {"x": 1.5}}}]}
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " 1 + 1?\n", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "Let me add."},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2", "loss_weight": 0.5},
        {"role": "user", "content": "Thanks"},
    ]
}


@pytest.mark.parametrize(
    "records",
    [
        [TALK | TOOLS, chat("a", "b")],
        [{"text": "one\ntwo"}, {"text": " three "}],
        [{"prompt": "p", "chosen": "c", "rejected": "r"}, {"prompt": "q", "chosen": "c", "rejected": ""}],
        [
            {"prompt": "p", "completion": "c", "label": True},
            {"prompt": "q", "completion": "c", "label": False},
        ],
        [{"instruction": "i", "input": "j", "output": "o"}],
        [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}],
    ],
)
def test_a_copy_is_imported_as_the_rows_it_was_made_from(
    tmp_path: Path, records: list[dict[str, object]]
) -> None:
    rows = import_path(write(tmp_path / "rows.jsonl", *records))

    assert said(saved(rows, tmp_path / "copy.jsonl")) == said(rows)


ODD = st.sampled_from(
    [
        *(
            "[1]",
            "{}",
            "null",
            "Human: a",
            "Assistant:",
            "1e5",
            " a ",
            "a<|endoftext|>",
            "<noinput>",
            "\u2028",
        ),
        '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
        "a\n\nHuman: b\n\nAssistant: c\n<human>: d\n<bot>: e ### Human: f### Assistant: g",
    ]
)
REPLY = {"role": "assistant", "replies": []}


def tree(a: str, b: str, c: str, d: str) -> dict[str, object]:
    replies = [REPLY | {"text": text, "rank": rank} for rank, text in enumerate((b, c, d))]
    return {"prompt": {"text": a, "role": "prompter", "replies": replies}, "tree_state": "ready_for_export"}


OF_EACH_FORMAT: dict[str, Callable[[str, str, str, str], dict[str, object]]] = {
    "messages": lambda a, b, c, d: {
        "messages": [
            {"role": "assistant", "content": a, "reasoning": b, "loss_weight": 0.5},
            *({"role": "user", "content": b, "name": c}, {"role": "user", "content": c}),
            {"role": "assistant", "content": d, "tool_calls": [CALL]},
            {"role": "tool", "content": a, "tool_call_id": b},
        ],
        "system": d,
    },
    "sharegpt": lambda a, b, c, d: {
        "conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}],
        "tools": [{"name": c, "parameters": {d: 1e5}}],
    },
    "alpaca": lambda a, b, c, d: {"instruction": a, "input": b, "output": c, "history": [[d, a]]},
    "prompt_completion": lambda a, b, c, d: {"prompt": a, "completion": b, "system": c},
    "question_answer": lambda a, b, c, d: {"question": a, "context": b, "choices": [c, d], "answer": 1},
    "self_instruct": lambda a, b, c, d: {
        "instruction": a,
        "instances": [{"input": b, "output": c}, {"output": d}],
    },
    "unnatural_instructions": lambda a, b, c, d: {"instances": [{"instruction_with_input": a, "output": b}]},
    "oasst": tree,
    "hh_rlhf": lambda a, b, c, d: {
        "chosen": f"{d}\n\nHuman: {a}\n\nAssistant: {b}",
        "rejected": f"\n\nHuman: {a}\n\nAssistant: {c}",
    },
    "chip2": lambda a, b, c, d: {"text": f"<human>: {a}\n<bot>: {b}\n<human>: {c}"},
    "longform": lambda a, b, c, d: {"input": a, "output": b, "source": c, "subset": d},
    "flan": lambda a, b, c, d: {"inputs": a, "targets": b},
    "preference": lambda a, b, c, d: {"prompt": a, "chosen": b, "rejected": c, "system": d},
    "kto": lambda a, b, c, d: {"prompt": a, "completion": b, "label": len(c) > len(d)},
    "text": lambda a, b, c, d: {"text": f"{a}{b}{c}{d}"},
}


def test_every_format_is_copied_in_a_test() -> None:
    assert set(OF_EACH_FORMAT) == set(READ)


@pytest.mark.parametrize("format", OF_EACH_FORMAT)
@given(st.lists(st.tuples(*[ODD | TEXTS] * 4), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_of_any_format_is_read_as_the_same_rows(
    tmp_path: Path, format: str, texts: list[tuple[str, str, str, str]]
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    good = OF_EACH_FORMAT[format]("What is it?", "It is this.", "It is that.", "It is both.")
    records = [good, *(OF_EACH_FORMAT[format](*four) for four in texts)]
    rows = import_path(write(folder / "rows.jsonl", *records), format)

    copy = saved(rows, folder / "copy.jsonl")
    again = saved(copy, folder / "again.jsonl")

    assert said(copy) == said(rows)
    assert again.report.sha256 == copy.report.sha256
    assert (copy.report.skipped, copy.report.merged) == (0, 0)


def test_texts_with_speakers_in_them_stay_texts(tmp_path: Path) -> None:
    talk = {"text": "\n\nHuman: one\n\nAssistant: two"}
    rows = import_path(write(tmp_path / "rows.jsonl", talk, {"text": "three"}), "text")

    copy = saved(rows, tmp_path / "copy.jsonl")

    assert [row.text for row in copy] == [talk["text"], "three"]
    assert "'plain_text' holds text as it is" in copy.report.guess


def test_tools_that_only_late_rows_have_are_in_the_copy(tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", *(chat(f"{i}", "b") for i in range(300)))
    late = write(tmp_path / "late.jsonl", TALK | TOOLS)
    rows = mixed(MixPart(path=str(first)), MixPart(path=str(late)))

    copy = saved(rows, tmp_path / "copy.jsonl")

    assert copy.row(300).tools == rows.row(300).tools
    assert '"x": 1.5' in copy.row(300).tools


def test_a_row_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion\na," + "\\" * 5_000_000 + "\n", "utf-8")

    with pytest.raises(StudioError, match="Row 0 takes more than 8 MB"):
        save_rows(import_path(file), tmp_path / "copy.jsonl", silent)
    assert not (tmp_path / "copy.jsonl").exists()


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=5), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chats_survive_a_copy(tmp_path: Path, talks: list[list[str]]) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    roles = ("user", "assistant") * 3
    records = [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, talk, strict=False)]}
        for talk in talks
    ]
    rows = import_path(write(folder / "rows.jsonl", *records))

    assert said(saved(rows, folder / "copy.jsonl")) == said(rows)


def test_a_copy_holds_what_the_recipe_left(tmp_path: Path) -> None:
    rows = mended(write(tmp_path / "rows.jsonl", *RECORDS), Fix(kind="refusals"), Fix(kind="broken_encoding"))

    copy = saved(rows, tmp_path / "copy.jsonl")

    assert said(copy) == said(rows)
    assert len(copy) == 6


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    rows = import_path(write(tmp_path / "rows.jsonl", *RECORDS))
    there, link = tmp_path / "there.jsonl", tmp_path / "link.jsonl"
    there.write_text("mine", "utf-8")
    link.symlink_to(tmp_path / "nowhere")

    for path in (there, link):
        with pytest.raises(StudioError, match="there already"):
            save_rows(rows, path, silent)

    assert there.read_text("utf-8") == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_copy_that_can_not_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = import_path(write(tmp_path / "rows.jsonl", *RECORDS))
    folder = tmp_path / "full"
    folder.mkdir()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StudioError, match="No space left"):
        save_rows(rows, folder / "copy.jsonl", silent)
    assert list(folder.iterdir()) == []


def test_a_mixture_of_chats_and_texts_fits_no_single_file(tmp_path: Path) -> None:
    chats = write(tmp_path / "chats.jsonl", chat("a", "b"))
    texts = write(tmp_path / "texts.jsonl", {"text": "one"})

    with pytest.raises(StudioError, match="chats, texts"):
        save_rows(mixed(MixPart(path=str(chats)), MixPart(path=str(texts))), tmp_path / "c.jsonl", silent)


def test_the_copy_is_one_json_object_a_line(tmp_path: Path) -> None:
    rows = import_path(write(tmp_path / "rows.jsonl", chat("a\u2028b", "c")))

    save_rows(rows, tmp_path / "copy.jsonl", silent)

    content = (tmp_path / "copy.jsonl").read_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content) == chat("a\u2028b", "c")
