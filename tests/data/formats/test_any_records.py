"""Whatever stands in the columns, each record is converted or skipped; nothing else is raised."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data.column_names import OPTIONAL, SHAPES
from qlora_studio.data.formats import READ
from qlora_studio.errors import StudioError
from tests.data.formats.outcomes import add_up, import_records

TEXTS = st.sampled_from(
    [
        *(
            "",
            " ",
            "a",
            "b",
            "true",
            "0",
            "1",
            "-1",
            "tie",
            "a b",
            "<noinput>",
            "b<|endoftext|>",
            "[1]",
            "{}",
        ),
        *("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant:", "<human>: a\n<bot>: b"),
        *(
            "### Human: a### Assistant: b",
            '[{"role": "user", "content": "a"}]',
            "[{'role': 1}]",
            '{"text": ["a"]}',
        ),
    ]
)
PLAIN = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from([1.5, 0.0, -1e300]))
KEYS = st.sampled_from(
    [
        *(
            "role",
            "content",
            "from",
            "value",
            "text",
            "label",
            "name",
            "tool_calls",
            "function_call",
            "weight",
        ),
        *(
            "human",
            "assistant",
            "input",
            "output",
            "instruction_with_input",
            "replies",
            "message_id",
            "messages",
        ),
        *("answer_start", "parts", "type", "function", "arguments", "train", "masked", "reasoning", "rank"),
    ]
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "function_call", "human", "gpt", "?", ""])
TURN = st.fixed_dictionaries({"role": ROLES, "content": PLAIN}) | st.fixed_dictionaries(
    {"from": ROLES, "value": TEXTS}
)
VALUES = st.recursive(
    PLAIN | TURN | st.lists(TURN, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
COLUMNS = sorted(
    {
        name
        for names in (*(shape for shapes in SHAPES.values() for shape in shapes), *OPTIONAL.values())
        for usual in names.values()
        for name in usual.split()[:2]
    }
    | {"response_a", "response_b", "score_0", "score_1", "answer_0", "answer_1", "preference", "kto_tag"}
)
RECORDS = st.lists(
    st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6) | VALUES, min_size=1, max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    records=RECORDS,
    format=st.sampled_from(["auto", "auto", *READ]),
    alternatives=st.sampled_from(["best", "all"]),
)
def test_any_records_are_counted_or_refused(
    tmp_path: Path, records: list[Any], format: str, alternatives: str
) -> None:  # D3
    try:
        data = import_records(tmp_path, records, format=format, alternatives=alternatives)
    except StudioError as error:
        assert error.message
        return
    rows_in, imported, _, _, rows = add_up(data)
    assert 0 < imported <= rows_in
    assert rows > 0
    shutil.rmtree(data.folder)


HH = "\n\nHuman: a\n\nAssistant: b"
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
GOOD: list[dict[str, Any]] = [
    {"messages": CHAT, "system": "", "tools": "[]", "images": []},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "a", "input": "", "output": "b", "history": [["a", "b"]], "system": "s"},
    {"question": "a", "context": "c", "choices": ["x", "y"], "answer": 1},
    {"question": "a", "context": "c", "answers": {"text": ["b"], "answer_start": [0]}},
    {"prompt": "a", "completion": "b", "tools": []},
    {"prompt": CHAT[:1], "completion": CHAT[1:]},
    {"inputs": "a", "targets": "b"},
    {"input": "a", "output": "b", "source": "s", "subset": "s"},
    {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
    {
        "instances": [{"instruction_with_input": "a", "output": "b"}],
        "instruction": "a",
        "reformulations": None,
    },
    {"message_id": "m", "parent_id": None, "text": "a", "role": "assistant", "rank": 0, "deleted": False},
    {
        "prompt": {"text": "a", "role": "prompter", "replies": [{"text": "b", "role": "assistant"}]},
        "tree_state": "",
    },
    {"text": "### Human: a### Assistant: b"},
    {"text": "<human>: a\n<bot>: b"},
    {"chosen": HH, "rejected": HH},
    {"prompt": "a", "chosen": "b", "rejected": "c", "history": [], "system": None},
    {"chosen": CHAT, "rejected": CHAT, "prompt": "a"},
    {"prompt": "a", "response_a": "b", "response_b": "c", "preference": "a"},
    {"prompt": "a", "answer_0": "b", "answer_1": "c", "score_0": 1, "score_1": 0.5},
    {"prompt": "a", "completion": "b", "label": True},
    {"messages": CHAT, "kto_tag": False},
    {"text": "a", "url": "b"},
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("good", GOOD, ids=lambda good: "-".join(good)[:40])
def test_any_values_beside_good_records_add_up(
    tmp_path: Path, good: dict[str, Any], data: st.DataObject
) -> None:  # D3
    odd_values = st.dictionaries(st.sampled_from(sorted(good)), VALUES | st.just("m"), min_size=1)
    odd = data.draw(st.lists(odd_values | VALUES, max_size=4))
    records = [good | values if isinstance(values, dict) else values for values in odd]
    alternatives = data.draw(st.sampled_from(["best", "all"]))

    found = import_records(tmp_path, [good] * 40 + records, alternatives=alternatives)

    assert add_up(found)[1] > 0
    shutil.rmtree(found.folder)


def test_every_format_that_is_read_has_a_shape() -> None:
    assert set(SHAPES) == set(READ)
