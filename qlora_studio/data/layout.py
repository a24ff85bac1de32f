"""Which format the records of a file have: found from the columns and values of its first records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qlora_studio.data.column_names import FIELDS, SHAPES
from qlora_studio.data.formats import READ, Layout, converter
from qlora_studio.data.layout_rules import candidates, complete, kind_of_turns, transcripts_in
from qlora_studio.data.record import RecordError, SpellingNeededError, in_words, named, spelled
from qlora_studio.data.sampled_rows import Candidate, SampledRows, listed_names, plain_name
from qlora_studio.errors import StudioError


class OtherColumnsError(StudioError):
    """A file lacks the columns of the format, or of the mapping, that was asked for."""


@dataclass(frozen=True)
class Guess:
    """A layout, the columns it was found among, and why it was chosen, for a person."""

    layout: Layout
    columns: tuple[str, ...]
    reason: str
    sure: bool = True


def find_layout(
    records: Sequence[Any],
    format: str,
    chosen: Mapping[str, str],
    where: str,
    *,
    all_answers: bool = False,
) -> Guess:
    """`format` may be "auto"; `chosen`: field -> column, by hand. Raises: StudioError naming `where`."""
    rows = SampledRows(records)
    if not rows.columns and not any(isinstance(record, str) for record in records):
        kind = "an object without columns" if records[0] == {} else in_words(records[0])
        raise StudioError(
            f"{where}: its first rows are {kind}.",
            hint="A row is an object with columns, such as prompt and answer, or a text.",
        )
    _check_choice(format, chosen, rows, where)
    if chosen:
        found = _by_hand(format, chosen, rows, where)
        layout = Layout(found.format, dict(found.map), all_answers)
        return Guess(layout, rows.columns, found.reason + _unused(rows, found))
    fitting = [found for found in candidates(rows) if format in ("auto", found.format)]
    if not fitting and format != "auto" and (columns := complete(rows, format, {})):
        fitting = [Candidate(format, columns, "The format was chosen by hand.")]
    if not fitting and _is_by_columns(records):
        raise _by_columns(where)
    if not fitting:
        raise _unknown(rows, format, where)
    held = [_held(records, Layout(found.format, found.map, all_answers)) for found in fitting]
    if not any(held) and _is_by_columns(records):
        raise _by_columns(where)
    at = _best(held, len(records))
    found = fitting[at]
    reason = f"{found.reason}{_other_ways(fitting, held, at)}{_misfits(held[at], len(records))}"
    layout = Layout(found.format, dict(found.map), all_answers)
    sure = found.sure and (format != "auto" or not _may_be_answered_beside(rows, found))
    return Guess(layout, rows.columns, reason + _unused(rows, found), sure)


def columns_of(records: Sequence[Any]) -> list[str]:
    """Names that any of the records has, in the order they first stand there."""
    return list(SampledRows(records).columns)


def best_guess(records: Sequence[Any]) -> dict[str, str]:
    """field -> column, by what the columns' names sound like; empty where they say nothing."""
    rows = SampledRows(records)
    texts = [column for column in rows.columns if rows.mostly(column, lambda value: isinstance(value, str))]
    sounding = {field: _sounding(texts, words) for field, words in _SOUNDS.items()}
    found = {field: columns[0] for field, columns in sounding.items() if columns}
    return found if len(found) == len(_SOUNDS) and len(set(found.values())) == len(found) else {}


# What the names of columns have in them, in some languages
_SOUNDS = {
    "prompt": "prompt|instruct|quest|input|query|frage|pregunta|user|human|src|source|task|问",
    "answer": "answer|respon|output|complet|repl|antwort|respuesta|réponse|assist|bot|tgt|target|solution|答",
}


def _sounding(columns: Sequence[str], words: str) -> list[str]:
    return [column for column in columns if re.search(words, column, re.IGNORECASE)]


def _check_choice(format: str, chosen: Mapping[str, str], rows: SampledRows, where: str) -> None:
    if format != "auto" and format not in READ:
        raise StudioError(
            f"There is no data format {format!r}.", hint=f"It must be auto or one of {', '.join(READ)}."
        )
    for field, column in chosen.items():
        if field not in FIELDS:
            raise StudioError(f"There is no field {field!r}.", hint=f"It must be one of {', '.join(FIELDS)}.")
        if column not in rows.columns:
            raise OtherColumnsError(
                f"{where} has no column {named(column)} for {field}.",
                hint=f"Its columns: {listed_names(rows.columns)}.",
            )


def _by_hand(format: str, chosen: Mapping[str, str], rows: SampledRows, where: str) -> Candidate:
    for kind in [format] if format != "auto" else _formats_of(chosen, rows):
        found = complete(rows, kind, chosen)
        if found:
            return Candidate(kind, found, "The columns were chosen by hand.")
    shapes = SHAPES.get(format, _USUAL_SHAPES)
    needed = ", or ".join(" and ".join(shape) for shape in shapes)
    raise OtherColumnsError(
        f"{where}: a mapping names {needed}.", hint=f"This one names {listed_names(sorted(chosen))}."
    )


_USUAL_SHAPES = ({"prompt": "", "answer": ""}, {"text": ""}, {"messages": ""}, {"chosen": "", "rejected": ""})


def _formats_of(chosen: Mapping[str, str], rows: SampledRows) -> list[str]:
    """What a mapping can mean, the most telling first."""
    fields = chosen.keys()
    if "label" in fields:
        return ["kto"]
    if fields & {"chosen", "rejected", "first", "second", "better"}:
        transcripts = "chosen" in fields and "hh_rlhf" in transcripts_in(rows, chosen["chosen"])
        return ["hh_rlhf" if transcripts else "preference"]
    if "instances" in fields:
        return ["self_instruct", "unnatural_instructions"]
    if fields & {"id", "parent", "tree"}:
        return ["oasst"]
    if "messages" in fields:
        return [kind_of_turns(rows, chosen["messages"]) or "messages"]
    if "text" in fields:
        return [*transcripts_in(rows, chosen["text"]), "text"][:1]
    if fields & {"context", "choices"}:
        return ["question_answer"]
    return ["prompt_completion"]


def _held(records: Sequence[Any], layout: Layout) -> int:
    """How many of the records can be read so."""
    if layout.is_of_trees:
        column = layout.map.get("tree") or layout.map["id"]
        return sum(isinstance(record, dict) and record.get(column) is not None for record in records)
    convert = converter(layout)
    held = 0
    for record in records:
        try:
            convert(record)
        except SpellingNeededError:
            held += _is_held(spelled(record), layout)
        except RecordError:
            continue
        else:
            held += 1
    return held


def _is_held(record: Any, layout: Layout) -> bool:
    try:
        converter(layout)(record)
    except RecordError:
        return False
    return True


def _best(held: Sequence[int], records: int) -> int:
    """The first way that half of the records can be read in, or else the one for the most of them."""
    most = (at for at, count in enumerate(held) if count * 2 >= records)
    return next(most, max(range(len(held)), key=held.__getitem__))


_WITHIN = {
    "oasst": ("text",),
    "hh_rlhf": ("preference",),
    "sharegpt": ("messages",),
    "self_instruct": ("prompt_completion",),
}


def _other_ways(fitting: Sequence[Candidate], held: Sequence[int], at: int) -> str:
    chosen = fitting[at].format
    others = dict.fromkeys(
        other.format
        for other, count in zip(fitting, held, strict=True)
        if count
        and count >= held[at]
        and other.sure
        and other.format not in (chosen, *_WITHIN.get(chosen, ()))
    )
    return f" It could also be read as {' or '.join(others)}; this says more." if others else ""


def _misfits(held: int, records: int) -> str:
    misfits = records - held
    return f" Of the first {records:,} rows {misfits:,} can't be read so." if 0 < misfits < records else ""


def _unused(rows: SampledRows, found: Candidate) -> str:
    unused = [column for column in rows.columns if column not in found.map.values()]
    return f" Not used: {listed_names(unused)}." if unused else ""


def _may_be_answered_beside(rows: SampledRows, found: Candidate) -> bool:
    """Whether a column is taken for plain text where one beside it may be its answer: by its name, or as it
    holds half as much or more."""
    column = found.map.get("text", "")
    if found.format != "text" or not column:
        return False
    if not _SAYS_WHAT_IT_IS.isdisjoint(plain_name(other) for other in rows.columns if other != column):
        return True
    if plain_name(column) == "text":
        return False
    least = _letters(rows, column) / 2
    return any(_letters(rows, other) >= least for other in rows.columns if other != column)


_SAYS_WHAT_IT_IS = {"label", "labels", "class", "category", "sentiment", "intent", "target"}


def _letters(rows: SampledRows, column: str) -> int:
    return sum(len(value) for value in rows.values(column) if isinstance(value, str))


def _is_by_columns(records: Sequence[Any]) -> bool:
    """Whether a single object holds a table, a column a key: lists as long as each other, or cells by row."""
    if len(records) != 1 or not isinstance(records[0], dict) or len(records[0]) < 2:
        return False
    columns = list(records[0].values())
    if all(isinstance(column, list) and column for column in columns):
        cells = [cell for column in columns for cell in column]
        return len({len(column) for column in columns}) == 1 and not any(
            isinstance(cell, dict) for cell in cells
        )
    return all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns)


def _by_columns(where: str) -> StudioError:
    return StudioError(
        f"{where} holds a table column by column; rows are read.",
        hint="Save it row by row, as pandas does with to_json(path, orient='records', lines=True).",
    )


def _unknown(rows: SampledRows, format: str, where: str) -> StudioError:
    of_format = f" of the format {format}" if format != "auto" else ""
    hint = "Choose the columns: prompt and answer, or text, or messages"
    guess = best_guess(rows.records)
    example = guess or {"prompt": "COLUMN", "answer": "COLUMN"}
    written = " ".join(f"--map {field}={column}" for field, column in example.items())
    hint += f"; in a terminal {written}."
    if guess:
        hint += " That is a guess from their names."
    return OtherColumnsError(
        f"{where}: no column of {listed_names(rows.columns)} says which text is the prompt and which the "
        f"answer{of_format}.",
        hint=hint,
    )
