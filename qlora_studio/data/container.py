"""What a file is, told by its content and not by its name: JSON lines, a JSON list, CSV, Parquet or text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.data.csv_header import delimiter_of, has_usual_header, told_delimiter
from qlora_studio.data.file_names import (
    COMPRESSED_SUFFIXES,
    CSV_SUFFIXES,
    EXPECTED,
    JSON_SUFFIXES,
    data_suffix,
)
from qlora_studio.data.lines import count_line_ends
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.data.text_file import TextFile, not_utf_8
from qlora_studio.errors import StudioError

PARQUET_MAGIC = b"PAR1"
HEAD_BYTES = 1 << 20

_TRIED_LINES = 20

_BLANK = b" \t\r\n"
_LIST = re.compile(rb"\[\s*[\]{]")
_OBJECT = re.compile(rb'\{\s*"[^"\\]*"\s*:')
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"\s*:\s*')
_NEXT_KEY = re.compile(r'\s*,\s*"([^"\\]*)"\s*:\s*')
_MOST_KEYS = 20
_ROWS = re.compile(r"\[\s*[{\]]")
_LISTS = {"data", "rows", "train", "examples", "items", "records", "dataset", "samples", "entries"}
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)[ \t]*+(?:\r\n|\n|\r)")


@dataclass(frozen=True)
class Container:
    """kind: JSON lines | a JSON list | JSON objects | CSV | text

    array_at:   offset where the list begins, or the first of objects that just follow each other
    delimiter:  of CSV
    paragraphs: the text has blank lines
    """

    kind: str
    array_at: int = 0
    delimiter: str = ","
    paragraphs: bool = False


def is_parquet(source: SourceFile) -> bool:
    """Whether it begins as Parquet does. Raises: StudioError where only its name or its beginning says so."""
    begins = source.read(0, 4) == PARQUET_MAGIC
    ends = source.size >= 12 and source.read(source.size - 4, 4) == PARQUET_MAGIC
    if begins and not ends:
        raise StudioError(
            f"{source.name} begins as Parquet but is cut off: its end is missing.",
            hint="Copy or download it again.",
        )
    if source.size and not begins and source.path.suffix.lower() == ".parquet" and not begins_as_json(source):
        raise StudioError(
            f"{source.name} is not Parquet, though its name says so.", hint="Copy or download it again."
        )
    return begins


def begins_as_json(source: SourceFile) -> bool:
    """Whether it can't be a file of columns, whatever its name says."""
    return source.read(0, 1) in (b"{", b"[")


def container_of(text: TextFile) -> Container:
    """Raises: StudioError where it holds nothing, is not UTF-8, or is no JSON though its name says so."""
    suffix = data_suffix(text.path)
    head = text.source.read(text.start, HEAD_BYTES)
    whole = len(head) < HEAD_BYTES
    _refuse_other_encodings(head, whole, text)
    content = head.lstrip(_BLANK)
    if not content:
        raise StudioError(f"{text.name} is empty.", hint="Choose a file with rows in it.")
    offset = text.start + len(head) - len(content)
    named_json = suffix in JSON_SUFFIXES
    if (_LIST.match(content) or (named_json and content[:1] == b"[")) and not _lists_line_by_line(content):
        return Container("a JSON list", array_at=offset)
    if json := _json_objects(content, offset, named_json, whole):
        return json
    if named_json and not has_usual_header(content):
        alone = whole and _is_value(content)
        raise StudioError(
            f"{text.name} {'holds one value, no rows' if alone else 'is not JSON, though its name says so'}.",
            hint="A JSON file holds one list of objects, or one object a line.",
        )
    if suffix in CSV_SUFFIXES or has_usual_header(content):
        if told := told_delimiter(content):
            return Container("CSV", delimiter=told)
        usual = "\t" if suffix == ".tsv" else ","
        return Container("CSV", delimiter=delimiter_of(content, whole=whole, otherwise=usual))
    return Container("text", paragraphs=bool(_BLANK_LINE.search(content.rstrip(_BLANK))))


def mismatch(path: Path, kind: str, packed: str = "") -> str:
    """What to say where the content is not what the name says; empty where it is."""
    suffix = data_suffix(path)
    named_packed = path.suffix.lower() in COMPRESSED_SUFFIXES
    if (not suffix or EXPECTED[suffix] == kind) and (named_packed == bool(packed) or not path.suffix):
        return ""
    name = f"{suffix}{path.suffix.lower()}" if named_packed else path.suffix
    content = f"{kind}, compressed with {packed}" if packed else f"{kind}, not compressed"
    return f"The name ends in {name}, the content is {content if packed or named_packed else kind}."


def _refuse_other_encodings(head: bytes, whole: bool, text: TextFile) -> None:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if whole or error.start < len(head) - 3:  # else a character is cut by the end of the head
            line = 1 + count_line_ends(head[: error.start])
            raise not_utf_8(text, line, b"") from error


def _json_objects(content: bytes, offset: int, named_json: bool, whole: bool) -> Container | None:
    """Objects a line, in a list within an object, or one behind the other; None where there are none."""
    lines = [line for line in content.splitlines() if line.strip(_BLANK)][:_TRIED_LINES]
    first_is_whole = _is_json(lines[0], named_json)
    if not (first_is_whole and len(lines) > 1) and (list_at := _list_within(content)):
        return Container("a JSON list", array_at=offset + list_at)
    if (
        first_is_whole
        or _lists_line_by_line(content)
        or (named_json and any(_is_json(line, named_json) for line in lines))
    ):
        return Container("JSON lines")
    if not _OBJECT.match(content):
        return None
    if len(lines) == 1 and not whole:
        return Container("JSON lines")  # the first line goes on behind the head
    return Container("JSON objects", array_at=offset)


def _lists_line_by_line(content: bytes) -> bool:
    """Whether the first two lines are a list of objects each, as chats without a name for it are."""
    lines = [line for line in content[:HEAD_BYTES].splitlines() if line.strip(_BLANK)][:2]
    return len(lines) == 2 and all(map(_is_list_of_objects, lines))


def _list_within(content: bytes) -> int | None:
    """Where the list of rows of an object begins, behind what else it says; None where it has none."""
    text = content.decode("utf-8", "ignore")  # the head may end within a letter
    decoder = json.JSONDecoder()
    names: list[str] = []
    found = _FIRST_KEY.match(text)
    while found and len(names) < _MOST_KEYS:
        lmflow = found[1] == "instances" and names == ["type"]
        if _ROWS.match(text, found.end()):
            return len(text[: found.end()].encode()) if found[1] in _LISTS or lmflow else None
        try:
            _, end = decoder.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            return None
        names.append(found[1])
        found = _NEXT_KEY.match(text, end)
    return None


def _is_value(content: bytes) -> bool:
    """null, a number or a truth value: JSON, but nothing to learn."""
    return re.fullmatch(rb"null|true|false|-?[0-9][0-9.eE+-]*", content.rstrip(_BLANK)) is not None


def _is_list_of_objects(line: bytes) -> bool:
    try:
        value = parse_json(line)
        return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    except (JsonError, UnicodeDecodeError):
        return False


def _is_json(line: bytes, named_json: bool) -> bool:
    if line.strip(_BLANK)[:1] not in ((b"{", b"[", b'"') if named_json else (b"{",)):
        return False
    try:
        parse_json(line)
    except (JsonError, UnicodeDecodeError):
        return False
    return True
