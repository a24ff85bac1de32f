"""Good bytes spoiled a little: the same seed spoils them the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MOST_BYTES = 2_000_000  # of what comes out: large files have tests of their own
_MOST_TIMES = 5

WORDS: tuple[bytes, ...] = (
    *(b"\0", b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x1a"),
    *("\u202e".encode(), "\u2028".encode(), "\U0010ffff".encode(), b"\x1b[2J", b"\\ud800", b"\\u0000"),
    *(b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b";", b"\t", b"//", b"#", b'""', b"[]", b"{}"),
    *(
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"0",
        b"-1",
        b"1e999",
        b"1.5",
        b"9" * 400,
        b"18446744073709551616",
    ),
    *(b"../../etc/passwd", b"/dev/zero", b"__proto__", b"{{ 9 ** 9 ** 9 }}", b"{% for i in range(9**9) %}"),
    *(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0\0\0\0\0", b"\xff" * 8, b"PAR1"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, 1e308, float("nan")),
    *(float("inf"), "", " ", "\0", "\x1b[2J\u202e", "../../etc/passwd", "/dev/zero", "x" * 100_000, "\ud800"),
    *([], {}, [[]], [None], {"": None}, [1] * 1000, {"a": {"a": {"a": 1}}}),
)


def spoiled(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """`data` changed in one to five places. others: good bytes of the same kind, for grafts."""
    for _ in range(random.randint(1, _MOST_TIMES)):
        data = random.choice(_CHANGES)(data, random, others)
    return data[:MOST_BYTES]


def spoiled_json(text: bytes, random: Random) -> bytes:
    """A JSON text with one to five of its values, keys or elements changed; still JSON, or nearly."""
    value = json.loads(text)
    for _ in range(random.randint(1, _MOST_TIMES)):
        value = _with_a_change(value, random)
    spaces = random.choice((None, None, 0, 2))
    changed = json.dumps(value, indent=spaces, ensure_ascii=random.random() < 0.5)
    return changed.encode("utf-8", "surrogatepass")[:MOST_BYTES]


def _with_a_change(value: Any, random: Random) -> Any:
    """Goes down by chance and changes what stands there."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        return _changed_object(dict(value), key, random)
    if isinstance(value, list) and value and random.random() < 0.85:
        return _changed_list(list(value), random.randrange(len(value)), random)
    return random.choice(VALUES)


def _changed_object(value: dict[str, Any], key: str, random: Random) -> dict[str, Any]:
    match random.randrange(8):
        case 0:
            del value[key]
        case 1:
            value[str(random.choice(VALUES))[:200]] = value.pop(key)
        case 2:
            value[str(random.randrange(1000))] = value[key]
        case 3:
            other = random.choice(list(value))
            value[key], value[other] = value[other], value[key]
        case _:
            value[key] = _with_a_change(value[key], random)
    return value


def _changed_list(value: list[Any], at: int, random: Random) -> list[Any]:
    match random.randrange(8):
        case 0:
            del value[at]
        case 1:
            value[at:at] = [value[at]] * random.choice((1, 2, 50))
        case 2:
            random.shuffle(value)
        case _:
            value[at] = _with_a_change(value[at], random)
    return value


def _flip(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    return _replaced(
        data, at := _place(data, random), at + 1, bytes([_byte(data, at) ^ 1 << random.randrange(8)])
    )


def _overwrite(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, random)
    new = random.randbytes(random.choice((1, 1, 2, 4, 8, 64)))
    return _replaced(data, at, at + len(new), new)


def _insert(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, random)
    return _replaced(data, at, at, random.choice(WORDS))


def _put_over(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    word, at = random.choice(WORDS), _place(data, random)
    return _replaced(data, at, at + len(word), word)


def _remove(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, random)
    return _replaced(data, at, at + _length(random), b"")


def _repeat(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    at = _place(data, random)
    part = data[at : at + _length(random)]
    return _replaced(data, at, at, part * random.choice((1, 2, 10, 1000)))


def _move(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    at, size = _place(data, random), _length(random)
    part, rest = data[at : at + size], _replaced(data, at, at + size, b"")
    to = _place(rest, random)
    return _replaced(rest, to, to, part)


def _cut(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    return data[: _place(data, random)] if random.random() < 0.8 else data[_place(data, random) :]


def _graft(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    other = random.choice(others)
    return data[: _place(data, random)] + other[_place(other, random) :]


def _another_number(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """A run of digits replaced, where one follows."""
    at = _place(data, random)
    while at < len(data) and not data[at : at + 1].isdigit():
        at += 1
    end = at
    while end < len(data) and data[end : end + 1].isdigit():
        end += 1
    return _replaced(data, at, end, str(random.choice((0, -1, 2**31, 2**63, 10**30, 0.1))).encode())


Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]
_CHANGES: tuple[Mutation, ...] = (
    *(_flip, _flip, _overwrite, _insert, _insert, _put_over, _remove, _repeat, _move, _cut, _graft),
    _another_number,
)


def _replaced(data: bytes, start: int, end: int, new: bytes) -> bytes:
    return (data[:start] + new + data[end:])[:MOST_BYTES]


def _place(data: bytes, random: Random) -> int:
    """Anywhere, but more often near the two ends, where headers and footers stand."""
    within = random.choice((len(data), len(data), 64, -64))
    if within < 0:
        return max(0, len(data) - random.randrange(1, -within))
    return random.randrange(min(within, len(data)) + 1)


def _byte(data: bytes, at: int) -> int:
    return data[at] if at < len(data) else 0


def _length(random: Random) -> int:
    return random.choice((1, 2, 3, 8, 30, 200, 4000))
