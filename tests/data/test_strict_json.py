"""JSON as its standard has it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.data.strict_json import JsonError, parse_json, parse_spelled

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_json_reads_it(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert parse_json(text) == value


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 1}', "a key stands twice in one object"),
        (b'{"a": {"b": "x", "b": "y"}}', "a key stands twice in one object"),
        (b'{"a" : 1, "a": 2}', "a key stands twice in one object"),
        (b'{"a": "\\"b\\":", "\\u0061": 2}', "a key stands twice in one object"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": -Infinity}', "-Infinity is no JSON"),
        (b'{"a": 1,}', "not valid JSON: a comma too many"),
        (b'{"a": [1,]}', "not valid JSON: a comma too many"),
        (b'{"a": 1 // one\n}', "not valid JSON: it has a comment"),
        (b'{"a": "x', "not valid JSON: it ends too early"),
        (b'{"a": ', "not valid JSON: it ends too early"),
        (b'{"a": 1} x', "not valid JSON: something follows its end"),
        (b'{"a": "\x01"}', "not valid JSON: a control character stands in a text"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair (\\ud800 to \\udfff) stands alone"),
        (b'{"\\udc00": 1}', "half of a surrogate pair (\\ud800 to \\udfff) stands alone"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 100_000, "nested deeper than 64"),
        (json.dumps(dict.fromkeys(map(str, range(513)))).encode(), "more than 512 columns"),
    ],
)
def test_what_is_no_json_is_refused_with_its_reason(text: bytes, reason: str) -> None:  # D5 D6 D7
    with pytest.raises(JsonError) as error:
        parse_json(text)

    assert str(error.value) == reason


def test_nesting_up_to_the_limit_is_read() -> None:  # D6
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_a_quoted_key_within_a_text_is_no_doubled_key() -> None:
    assert parse_json(b'{"a": "{\\"a\\": 1}", "b": "\\\\"}') == {"a": '{"a": 1}', "b": "\\"}


@pytest.mark.fault(31)
def test_bytes_that_are_not_utf_8_are_never_replaced() -> None:  # D5
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'{"a": "\xff"}')


def test_numbers_keep_their_spelling_where_it_is_asked_for() -> None:  # D4
    assert parse_spelled(b"[1e5, 0.10, -0, 12345678901234567890123, 1e999]") == [
        "1e5",
        "0.10",
        "-0",
        "12345678901234567890123",
        "1e999",
    ]
