"""Many chats at once give exactly what they give one by one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import lines as module_of_lines
from qlora_studio.data import plain_chats
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.formats import Layout
from qlora_studio.data.late_columns import LateColumns
from qlora_studio.data.record import Conversation
from qlora_studio.data.report import ImportReport
from qlora_studio.data.row_digest import ROLE_CODES, digest_of, seeds_of
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, reasons, turns

MESSAGES = Layout("messages", {"messages": "messages"})
GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
ODD_LINES = (
    GOOD.replace(b'"b"', b'"b", "content": "c"'),
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 1e5}]}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b"]}]}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": null}]}',
    b'{"messages": [null]}',
    b'{"messages": null}',
    b'{"messages": []}',
    b'{"messages": "text"}',
    b"{}",
    b"[]",
    b"null",
    b"",
    b" ",
    GOOD[:-5],
    GOOD + GOOD,
    GOOD + b" ",
    b" " + GOOD,
    GOOD[:30] + b"\n" + GOOD[30:],
    GOOD[:-1] + b"\n}",
    GOOD[:-1] + b', "score": NaN}',
    GOOD[:-1] + b', "score": 1}',
    GOOD[:-1] + b', "score": "one"}',
    GOOD[:-1] + b', "score": 1e999}',
    GOOD[:-1] + b', "score": [{"x": [-Infinity]}]}',
    GOOD[:-1] + b', "score": 1, "score": 2}',
    GOOD[:-1] + b', "score": ' + b"[" * 63 + b"]" * 63 + b"}",
    GOOD[:-1] + b', "score": ' + b"[" * 64 + b"]" * 64 + b"}",
    GOOD[:-1] + b', "score": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    GOOD[:-1] + b', "system": "Be brief."}',
    GOOD[:-1] + b', "system": null}',
    GOOD[:-1] + b', "tools": [{"name": "f"}]}',
    GOOD[:-1] + b', "tools": "[]"}',
    GOOD[:-1] + b', "images": []}',
    GOOD[:-1] + b', "images": null}',
    GOOD[:-1] + b', "images": [null]}',
    GOOD[:-1] + b', "images": ["a.png"]}',
    GOOD[:-1] + b', "images": [{"path": "a.png"}]}',
    GOOD[:-1] + b', "images": {}}',
    GOOD.replace(b"messages", b"m\\u0065ssages"),
    GOOD.replace(b'"b"', b'"\\ud800"'),
    GOOD.replace(b'"b"', b'"\\ud83d\\ude00\\u0000"'),
    GOOD.replace(b'"b"', b'"\xff"'),
    GOOD.replace(b'"b"', b'"\x01"'),
    GOOD.replace(b"}]}", b"},]}"),
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt", "Assistant", "narrator", ""])
CONTENT = st.sampled_from(
    ["a", "", " ", "\u00a0", "\u3000\n", "\u200b", "数", "\u3042", 'say "a": {}', "é" * 40, "\x00"]
)
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENT}), max_size=4)
USUAL = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=2).map(
    lambda pairs: [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
)
LINES = st.one_of(
    st.just(GOOD),
    (USUAL | TURNS).map(lambda value: json.dumps({"messages": value}).encode()),
    USUAL.map(lambda value: json.dumps({"messages": value, "id": 1}, ensure_ascii=False).encode()),
    st.sampled_from(ODD_LINES),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    lines=st.lists(LINES, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    chunk=st.sampled_from([60, 500, 1 << 20]),
)
def test_many_at_once_give_what_each_alone_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], end: bytes, chunk: int
) -> None:  # D3 D4
    monkeypatch.setattr(module_of_lines, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(plain_chats, "_WORTH_IT", 0.0)
    content = end.join([GOOD, *lines])

    at_once = _import(tmp_path, content)
    monkeypatch.setattr(plain_chats.PlainChatsReader, "read", lambda chats, block: None)
    one_by_one = _import(tmp_path, content)

    assert at_once == one_by_one


PAIR = {"instruction": "a", "input": "", "output": "b"}
ODD_VALUES: tuple[object, ...] = (None, 1.50, True, [], ["x"], {}, [["q", "r"]], [["q"]])
VALUES = CONTENT | st.sampled_from(ODD_VALUES)
PAIRS = st.fixed_dictionaries(
    {"instruction": CONTENT, "output": CONTENT},
    optional={"input": CONTENT, "system": CONTENT, "history": st.just([]), "id": st.integers()},
)
ODD_PAIRS = st.dictionaries(st.sampled_from([*PAIR, "system", "history", "tools", "id", "images"]), VALUES)
PAIR_LINES = st.one_of(
    st.just(PAIR).map(json.dumps),
    PAIRS.map(json.dumps),
    st.tuples(PAIRS, ODD_PAIRS).map(lambda both: json.dumps(both[0] | both[1], ensure_ascii=False)),
    st.just('{"instruction": "a", "output": "b", "output": "c"}'),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(lines=st.lists(PAIR_LINES, max_size=8))
def test_many_pairs_at_once_give_what_each_alone_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:  # D3 D4
    monkeypatch.setattr(plain_chats, "_WORTH_IT", 0.0)
    first = PAIR | {"system": "", "history": [], "tools": ""}
    content = "\n".join([json.dumps(first), *lines]).encode()

    at_once = _import(tmp_path, content)
    monkeypatch.setattr(plain_chats.PlainChatsReader, "read", lambda chats, block: None)
    one_by_one = _import(tmp_path, content)

    assert at_once == one_by_one


def test_pairs_are_plain_with_their_input_below_the_prompt() -> None:
    block = b"\n".join(json.dumps(PAIR | {"input": text}).encode() for text in ("", "x", " "))
    layout = Layout("alpaca", {"prompt": "instruction", "input": "input", "answer": "output"})

    found = plain_chats.PlainChatsReader(layout).read(block)

    assert found is not None
    assert found.plain.all()
    assert found.contents.to_pylist() == ["a", "b", "a\n\nx", "b", "a", "b"]


def test_plain_chats_are_found_to_be_plain() -> None:
    block = b"\n".join([GOOD, GOOD.replace(b'"a"', b'"\xe2\x80\x8b"'), GOOD[:-1] + b', "id": 1}'])

    found = plain_chats.PlainChatsReader(MESSAGES).read(block)

    assert found is not None
    assert found.plain.all()
    assert found.contents.to_pylist() == ["a", "b", "\u200b", "b", "a", "b"]


def test_other_columns_may_differ_in_what_they_hold() -> None:
    others = (b"1", b"1.5", b"null", b"12345678901234567890123")
    block = b"\n".join(GOOD[:-1] + b', "score": %s, "when": "2026-01-01"}' % other for other in others)

    assert plain_chats.PlainChatsReader(MESSAGES).read(block + b"\n" + GOOD) is not None


@pytest.mark.parametrize(("value", "at_once"), [('""', True), ("[]", True), ("null", True), ('"Be."', False)])
def test_a_late_column_is_looked_at_one_by_one_only_where_it_says_something(
    value: str, at_once: bool
) -> None:
    block = b"\n".join([GOOD] * 3 + [GOOD[:-1] + f', "system": {value}}}'.encode()])
    late = LateColumns(MESSAGES, ("messages",))

    assert (plain_chats.PlainChatsReader(MESSAGES, late).read(block) is not None) == at_once


def test_sharegpt_is_plain_too_with_its_roles_mapped(tmp_path: Path) -> None:
    line = b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": "x"}\n'
    assert (
        plain_chats.PlainChatsReader(Layout("sharegpt", {"messages": "conversations"})).read(line) is not None
    )

    data = import_bytes(tmp_path / "rows.jsonl", line)

    assert turns(data.row(0)) == [("user", "a"), ("assistant", "b")]
    assert findings(data) == {"role_alias": 1}


def test_rows_between_plain_ones_keep_their_place(tmp_path: Path) -> None:
    lines = [GOOD.replace(b'"a"', b'"%d"' % number) for number in range(40)]
    lines[5] = lines[5].replace(b'"b"', b"5")
    lines[6] = b"{"
    lines[7] = lines[3]

    data = import_bytes(tmp_path / "rows.jsonl", b"\n".join(lines))

    assert [row.line for row in data] == [number + 1 for number in range(40) if number not in (6, 7)]
    assert data.row(5).messages[1].content == "5"
    assert (data.report.merged, reasons(data)) == (1, {"not valid JSON: it ends too early": [7]})
    assert data.row(6, source=True).source == lines[8].decode()


def test_the_digest_of_many_is_the_digest_of_each() -> None:
    rows = [
        (Message("user", "a"), Message("assistant", "bé")),
        (Message("system", ""), Message("user", "ab"), Message("assistant", "é")),
    ]
    messages = [message for row in rows for message in row]
    lengths = np.array([len(message.content.encode()) for message in messages], dtype=np.int64)
    codes = np.array([ROLE_CODES[message.role] for message in messages], dtype=np.int64)

    seeds = seeds_of(lengths, codes, np.array([0, 2, 5], dtype=np.int64))

    assert len(set(seeds.tolist())) == 2
    assert len({digest_of(Conversation(row)) for row in rows}) == 2


@pytest.mark.parametrize(
    "other",
    [
        Conversation((Message("user", "ab"), Message("assistant", "c"))),
        Conversation((Message("system", "a"), Message("assistant", "bc"))),
        Conversation((Message("user", "a"), Message("assistant", "bc", loss_weight=0.5))),
        Conversation((Message("user", "a"), Message("assistant", "bc")), tools="[]"),
        Conversation(text="abc"),
    ],
)
def test_rows_that_differ_in_anything_learned_have_other_digests(other: Conversation) -> None:
    assert digest_of(other) != digest_of(Conversation((Message("user", "a"), Message("assistant", "bc"))))


def _import(folder: Path, content: bytes) -> tuple[ImportReport, list[Row], list[Row]] | str:
    try:
        data = import_bytes(folder / "rows.jsonl", content)
    except StudioError as error:
        return str(error)
    rows = [data.row(index, source=True) for index in range(len(data))]
    shutil.rmtree(data.folder)
    return data.report, list(data), rows
