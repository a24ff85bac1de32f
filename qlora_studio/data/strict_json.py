"""JSON as its standard has it, and nothing more: no doubled key, NaN, comment or trailing comma (D7)."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from qlora_studio.data.limits import MAX_COLUMNS, MAX_DEPTH


class JsonError(ValueError):
    """Why a text is no JSON, in a few words that start in lower case."""


class Spelled(str):
    """A number as it is spelled in the file: 1e5 stays 1e5."""


_decode = msgspec.json.Decoder().decode
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*+:)?', re.DOTALL)


def parse_json(text: bytes) -> Any:
    """Raises: JsonError; UnicodeDecodeError where a string of it is not UTF-8."""
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return parse_spelled(text)  # slower, and knows what is wrong
    if _may_be_deep(text) and depth_of(value) > MAX_DEPTH:
        raise JsonError(f"nested deeper than {MAX_DEPTH}")
    _refuse_many_columns(value)
    keys, strings = _keys_and_strings(value)
    if text.count(b'"') != 2 * strings and count_keys(text) != keys:
        raise JsonError("a key stands twice in one object")
    return value


def parse_spelled(text: bytes) -> Any:
    """The same, with numbers as `Spelled`. Raises: JsonError; UnicodeDecodeError."""
    try:
        value = _SPELLING_DECODER.decode(text.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise JsonError(_in_words(error)) from None
    except RecursionError:
        raise JsonError(f"nested deeper than {MAX_DEPTH}") from None
    if depth_of(value) > MAX_DEPTH:
        raise JsonError(f"nested deeper than {MAX_DEPTH}")
    _refuse_many_columns(value)
    if b"\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def count_keys(text: bytes) -> int:
    """How many keys a valid JSON text spells out, doubled ones too."""
    return sum(1 for colon in _STRING.findall(text) if colon)


def depth_of(value: Any) -> int:
    """How deeply lists and objects are nested; 0 for anything else."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _refuse_many_columns(value: Any) -> None:
    if isinstance(value, dict) and len(value) > MAX_COLUMNS:
        raise JsonError(f"more than {MAX_COLUMNS} columns")


def _may_be_deep(text: bytes) -> bool:
    return text.count(b"[") + text.count(b"{") > MAX_DEPTH


def _keys_and_strings(value: Any) -> tuple[int, int]:
    """Keys in `value`, and keys and strings together."""
    keys = strings = 0
    left = [value]
    while left:
        item = left.pop()
        kind = type(item)
        if kind is str:
            strings += 1
        elif kind is dict:
            keys += len(item)
            left.extend(item.values())
        elif kind is list:
            left.extend(item)
    return keys, keys + strings


def _refuse_lone_surrogates(value: Any) -> None:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise JsonError("half of a surrogate pair (\\ud800 to \\udfff) stands alone") from None
        elif isinstance(item, dict):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise JsonError("a key stands twice in one object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is no JSON")


_SPELLING_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Spelled, parse_float=Spelled, parse_constant=_no_constant
)


def _in_words(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :]
    if not rest.strip() or error.msg.startswith("Unterminated string"):
        return "not valid JSON: it ends too early"
    if error.msg.startswith("Extra data"):
        return "not valid JSON: something follows its end"
    if error.msg.startswith("Invalid control character"):
        return "not valid JSON: a control character stands in a text"
    if rest.startswith(("//", "/*", "#")):
        return "not valid JSON: it has a comment"
    if rest[0] in "}]" and error.doc[: error.pos].rstrip().endswith(","):
        return "not valid JSON: a comma too many"
    return "not valid JSON"
