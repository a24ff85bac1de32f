"""Which format the records of a file have: found from the columns and values of its first records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qlora_studio.data.chats import turns_of
from qlora_studio.data.formats import CHAT_COLUMNS, FIELDS, NOT_BUILT, READ, Layout
from qlora_studio.data.limits import MAX_COLUMNS
from qlora_studio.data.record import in_words, named
from qlora_studio.errors import StudioError


@dataclass(frozen=True)
class Guess:
    """A layout, the columns it was found among, and why it was chosen, for a person."""

    layout: Layout
    columns: tuple[str, ...]
    reason: str
    sure: bool = True


# format, then for each field the names its column has; the first two must be there
_PAIRS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("alpaca", (("prompt", "instruction"), ("answer", "output response completion answer target"))),
    ("question_answer", (("prompt", "question"), ("answer", "answer response output completion"))),
    ("prompt_completion", (("prompt", "prompt"), ("answer", "completion response answer output target"))),
    ("prompt_completion", (("prompt", "input inputs"), ("answer", "output outputs target targets response"))),
    ("prompt_completion", (("prompt", "query"), ("answer", "response answer output"))),
    ("prompt_completion", (("prompt", "user human"), ("answer", "assistant gpt bot"))),
    ("prompt_completion", (("prompt", "source"), ("answer", "target"))),
)
_OPTIONAL = {"alpaca": (("input", "input context"),)}
_ALWAYS_OPTIONAL = (("system", "system system_prompt"), ("history", "history"), ("tools", "tools functions"))
_LONGEST_NAME = 100  # characters; what is longer is no name of a column
_BESIDE_TURNS = (("system", "system system_prompt"), ("tools", "tools functions"))
_TEXT_COLUMNS = ("text", "content", "document", "body", "raw_content")


def find_layout(records: Sequence[Any], format: str, chosen: Mapping[str, str], where: str) -> Guess:
    """`format` may be "auto"; `chosen`: field -> column, by hand. Raises: StudioError naming `where`."""
    columns = columns_of(records)
    if not columns and not any(isinstance(record, str) for record in records):
        kind = "an object without columns" if records[0] == {} else in_words(records[0])
        raise StudioError(
            f"{where}: its first rows are {kind}.",
            hint="A row is an object with columns, such as prompt and answer, or a text.",
        )
    _check_choice(format, chosen, columns, where)
    lower = {name.strip().lower(): name for name in reversed(columns)}
    if chosen:
        return _by_hand(format, chosen, records, columns, where)
    guess = _from_values(records, lower, columns) if format == "auto" else None
    if guess is None:
        guess = _from_names(records, format, lower, columns)
    if guess is None and format == "auto":
        guess = _from_turns(records, lower, lower, columns) or _last_resort(records, columns)
    if guess is None:
        raise StudioError(
            f"{where}: no column of {_list(columns)} says which text is the prompt and which the answer"
            + (f" of the format {format}." if format != "auto" else "."),
            hint="Choose the columns: prompt and answer, or text, or messages.",
        )
    _refuse_unbuilt(guess.layout.format, where)
    return guess


def columns_of(records: Sequence[Any]) -> list[str]:
    """Names that any of the records has, in the order they first stand there."""
    counts: Counter[str] = Counter()
    for record in records:
        if isinstance(record, dict):
            counts.update(record.keys())
    return [name for name in counts if len(name) <= _LONGEST_NAME][:MAX_COLUMNS]


def _check_choice(format: str, chosen: Mapping[str, str], columns: list[str], where: str) -> None:
    if format != "auto" and format not in READ and format not in NOT_BUILT:
        raise StudioError(
            f"There is no data format {format!r}.", hint=f"It must be auto or one of {', '.join(READ)}."
        )
    _refuse_unbuilt(format, where)
    for field, column in chosen.items():
        if field not in FIELDS:
            raise StudioError(f"There is no field {field!r}.", hint=f"It must be one of {', '.join(FIELDS)}.")
        if column not in columns:
            raise StudioError(
                f"{where} has no column {named(column)} for {field}.", hint=f"Its columns: {_list(columns)}."
            )


def _refuse_unbuilt(format: str, where: str) -> None:
    if format in NOT_BUILT:
        raise StudioError(f"{where} holds {NOT_BUILT[format]}.", hint=f"Formats read: {', '.join(READ)}.")


def _by_hand(
    format: str, chosen: Mapping[str, str], records: Sequence[Any], columns: list[str], where: str
) -> Guess:
    if "chosen" in chosen or "rejected" in chosen:
        _refuse_unbuilt("preference", where)
    if "messages" in chosen:
        kind = _kind_of_turns(records, chosen["messages"]) or "messages"
    elif "text" in chosen:
        kind = "text"
    elif "prompt" in chosen and "answer" in chosen:
        kind = "prompt_completion"
    else:
        raise StudioError(
            f"{where}: a mapping names prompt and answer, or text, or messages.",
            hint=f"It has {_list(sorted(chosen))}.",
        )
    layout = Layout(kind if format == "auto" else format, dict(chosen))
    return Guess(layout, tuple(columns), "The columns were chosen by hand.")


def _from_values(records: Sequence[Any], lower: Mapping[str, str], columns: list[str]) -> Guess | None:
    """Formats that are known by what their columns hold, or by columns that no other format has."""
    if sum(isinstance(record, str) for record in records) * 2 > len(records):
        return Guess(Layout("text", {}), (), "Each record is a text.")
    for format, names in (
        ("preference", ("chosen", "rejected")),
        ("oasst", ("message_id", "parent_id")),
        ("self_instruct", ("instruction", "instances")),
        ("kto", ("kto_tag",)),
    ):
        if all(name in lower for name in names):
            return Guess(Layout(format, {}), tuple(columns), "")
    if "label" in lower and "completion" in lower and _mostly(records, lower["label"], bool):
        return Guess(Layout("kto", {}), tuple(columns), "")
    return _from_turns(records, CHAT_COLUMNS, lower, columns)


def _from_turns(
    records: Sequence[Any], names: Iterable[str], lower: Mapping[str, str], columns: list[str]
) -> Guess | None:
    for name in names:
        if name in lower and (kind := _kind_of_turns(records, lower[name])):
            fields = {"messages": lower[name]} | _found(_BESIDE_TURNS, lower)
            spelled = "from and value" if kind == "sharegpt" else "role and content"
            reason = f"The column {named(lower[name])} holds lists of turns with {spelled}."
            return Guess(Layout(kind, fields), tuple(columns), reason + _unused(columns, fields))
    return None


def _from_names(
    records: Sequence[Any], format: str, lower: Mapping[str, str], columns: list[str]
) -> Guess | None:
    for pair_format, required in _PAIRS:
        if format not in ("auto", pair_format):
            continue
        fields = _found(required, lower)
        if len(fields) == len(required):
            fields |= _found(_OPTIONAL.get(pair_format, ()) + _ALWAYS_OPTIONAL, lower)
            names = " and ".join(named(fields[field]) for field in ("prompt", "answer"))
            return Guess(
                Layout(pair_format, fields), tuple(columns), f"It has {names}." + _unused(columns, fields)
            )
    if format in ("messages", "sharegpt"):
        for name in CHAT_COLUMNS:
            if name in lower:
                fields = {"messages": lower[name]} | _found(_BESIDE_TURNS, lower)
                return Guess(Layout(format, fields), tuple(columns), "The format was chosen by hand.")
    if format in ("auto", "text"):
        for name in _TEXT_COLUMNS:
            if name in lower and (len(columns) == 1 or _mostly(records, lower[name], str)):
                fields = {"text": lower[name]}
                reason = f"The column {named(lower[name])} holds text."
                return Guess(Layout("text", fields), tuple(columns), reason + _unused(columns, fields))
    return None


def _last_resort(records: Sequence[Any], columns: list[str]) -> Guess | None:
    texts = [column for column in columns if _mostly(records, column, str)]
    if len(texts) == 1:
        fields = {"text": texts[0]}
        reason = f"{named(texts[0])} is the only column with text."
        return Guess(Layout("text", fields), tuple(columns), reason + _unused(columns, fields), sure=False)
    if len(texts) == 2:
        fields = {"prompt": texts[0], "answer": texts[1]}
        reason = f"There are two columns with text: {named(texts[0])} is taken for the prompt, "
        reason += f"{named(texts[1])} for the answer."
        return Guess(
            Layout("prompt_completion", fields), tuple(columns), reason + _unused(columns, fields), sure=False
        )
    return None


def _found(wanted: tuple[tuple[str, str], ...], lower: Mapping[str, str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for field, names in wanted:
        for name in names.split():
            if name in lower and lower[name] not in fields.values():
                fields[field] = lower[name]
                break
    return fields


def _kind_of_turns(records: Sequence[Any], column: str) -> str | None:
    kinds: Counter[str] = Counter()
    for record in records:
        turns = turns_of(record.get(column)) if isinstance(record, dict) else None
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, dict):
            keys = {key for key, value in first.items() if value is not None}
            if "from" in keys and "value" in keys:
                kinds["sharegpt"] += 1
            elif keys & {"role", "from", "speaker", "author", "sender"}:
                kinds["messages"] += 1
    return kinds.most_common(1)[0][0] if kinds else None


def _mostly(records: Sequence[Any], column: str, kind: type) -> bool:
    values = [record[column] for record in records if isinstance(record, dict) and column in record]
    return bool(values) and sum(isinstance(value, kind) for value in values) * 2 > len(values)


def _unused(columns: Sequence[str], fields: Mapping[str, str]) -> str:
    unused = [column for column in columns if column not in fields.values()]
    return f" Not used: {_list(unused)}." if unused else ""


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(named(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "none"
