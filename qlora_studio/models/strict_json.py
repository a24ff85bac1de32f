"""JSON from outside, read strictly: a duplicate key or nonsense is an error with the file's name."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from typing import Any

from qlora_studio.errors import StudioError


def strict_object(data: bytes, where: str, *, non_finite: bool = False) -> dict[str, Any]:
    """A byte order mark, which some editors put first, is passed over.

    non_finite: NaN and Infinity, as Python writes them, are floats; whoever reads the number must look at it
    Raises: StudioError where `data` is no JSON object, or says one key twice.
    """
    try:
        value = json.loads(
            data.removeprefix(BOM_UTF8).decode("utf-8"),
            object_pairs_hook=_no_key_twice,
            parse_constant=float if non_finite else _no_constant,
        )
    except UnicodeDecodeError as error:
        raise StudioError(f"{where} is not UTF-8 text at byte {error.start:,}.") from error
    except json.JSONDecodeError as error:
        raise StudioError(f"{where} is not valid JSON: {error.msg} at byte {error.pos:,}.") from error
    except ValueError as error:  # ours, and numbers with thousands of digits
        raise StudioError(f"{where} is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise StudioError(f"{where} is nested too deeply.") from error
    if not isinstance(value, dict):
        raise StudioError(f"{where} holds no JSON object.")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = next(name for name, times in counted.items() if times > 1)
        raise ValueError(f"{twice[:200]!r} stands there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
