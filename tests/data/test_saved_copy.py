"""A copy of imported rows gives the same rows when it is imported."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.data.conversation import Row
from qlora_studio.data.dataset import Dataset
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
