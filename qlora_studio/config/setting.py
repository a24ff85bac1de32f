"""A setting said once: its default, its limits and the words that form, checks and help share."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import msgspec

from qlora_studio.errors import StudioError

_MANY_DIGITS = 10**15


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a person is told about one key, and which values it takes. Stands in the key's `Annotated` type.

    choices: value -> label, in the order of the form
    missing: value -> why it is refused; values whose method isn't built yet
    unit:    written after the number, such as "tokens"
    simple:  also shown in the form's Simple mode
    """

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    simple: bool = False


@dataclass(frozen=True)
class Field:
    """One key of a run's settings as the form, the checks and the help see it.

    key:  dotted, as in the TOML file: "lora.r"
    kind: bool | int | float | str, or the annotation itself where it is none of these; of a dict of numbers
        the limits are those of each
    """

    key: str
    kind: Any
    default: Any
    setting: Setting


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Every key of `struct` that carries a `Setting`, depth first, in the order of the source."""
    return tuple(_fields_of(struct, ""))


def _fields_of(struct: type[msgspec.Struct], prefix: str) -> Iterator[Field]:
    hints = typing.get_type_hints(struct, include_extras=True)
    for info in msgspec.structs.fields(struct):
        hint = hints[info.name]
        key = f"{prefix}{info.name}"
        base, setting = _split(hint)
        if setting is not None:
            yield Field(key, _kind(base), _default(info), setting)
        elif isinstance(base, type) and issubclass(base, msgspec.Struct):
            yield from _fields_of(base, f"{key}.")


def check_limits(struct: msgspec.Struct, where: str) -> None:
    """Raises: StudioError naming the first key of `struct` that lies outside its limits."""
    for item in fields_of(type(struct)):
        problem = problem_with(item, value_of(struct, item.key))
        if problem:
            raise StudioError(f"{where}: {problem}", hint=f"{item.setting.label}: {item.setting.help}")


def problem_with(item: Field, value: Any) -> str:
    """Why `value` can't stand under this key, as one sentence; empty where it can."""
    setting = item.setting
    if isinstance(value, dict):
        named = ((replace(item, key=f"{item.key}.{name}"), number) for name, number in value.items())
        return next(filter(None, (problem_with(one, number) for one, number in named)), "")
    if isinstance(value, str):
        if value in setting.missing:
            return f"{item.key} = {value!r} is refused: {setting.missing[value]}"
        if setting.choices and value not in setting.choices:
            return f"{item.key} is {value!r}; it must be one of {', '.join(setting.choices)}."
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = setting.minimum, setting.maximum
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not inside:  # also where value is NaN
            return f"{item.key} is {_in_words(value)}; it must be {_range_in_words(low, high)}."
    return ""


def value_of(struct: msgspec.Struct, key: str) -> Any:
    """The value under a dotted key."""
    value: Any = struct
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _range_in_words(low: float | None, high: float | None) -> str:
    if low is None:
        assert high is not None  # or nothing would lie outside
        return f"at most {_in_words(high)}"
    if high is None:
        return f"at least {_in_words(low)}"
    return f"between {_in_words(low)} and {_in_words(high)}"


def _in_words(value: float) -> str:
    """ "999,999,999" and not "1e+09": what was typed is to be known again."""
    if isinstance(value, int) and abs(value) >= _MANY_DIGITS:
        return f"{Decimal(value):.3g}"  # a float may have no room for it
    return f"{int(value):,}" if abs(value) < _MANY_DIGITS and value == int(value) else f"{value:g}"


def _split(hint: Any) -> tuple[Any, Setting | None]:
    if typing.get_origin(hint) is typing.Annotated:
        base, *extras = typing.get_args(hint)
        return base, next((extra for extra in extras if isinstance(extra, Setting)), None)
    return hint, None


def _kind(base: Any) -> Any:
    if typing.get_origin(base) is Literal:
        return str
    return base


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return info.default
