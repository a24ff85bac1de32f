"""What a file is, told by its content and not by its name: JSON lines, a JSON list, CSV, Parquet or text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.data.csv_header import delimiter_of, has_usual_header
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
_WRAPPED = re.compile(
    rb'\{\s*(?:"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[0-9.]+|true|false|null)\s*,\s*){0,20}'
    rb'"(?:data|rows|train|examples|items|records|dataset|samples|entries)"\s*:\s*(?=\[\s*[{\]])'
)
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
    if source.size and not begins and source.path.suffix.lower() == ".parquet":
        raise StudioError(
            f"{source.name} is not Parquet, though its name says so.", hint="Copy or download it again."
        )
    return begins


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
    if _LIST.match(content) or (named_json and content[:1] == b"["):
        return Container("a JSON list", array_at=offset)
    if json := _json_objects(content, offset, named_json, whole):
        return json
    if named_json:
        alone = whole and _is_value(content)
        raise StudioError(
            f"{text.name} {'holds one value, no rows' if alone else 'is not JSON, though its name says so'}.",
            hint="A JSON file holds one list of objects, or one object a line.",
        )
    if suffix in CSV_SUFFIXES or has_usual_header(content):
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
    wrapped = _WRAPPED.match(content)
    if wrapped and not (first_is_whole and len(lines) > 1):
        return Container("a JSON list", array_at=offset + wrapped.end())
    if first_is_whole or (named_json and any(_is_json(line, named_json) for line in lines)):
        return Container("JSON lines")
    if not _OBJECT.match(content):
        return None
    if len(lines) == 1 and not whole:
        return Container("JSON lines")  # the first line goes on behind the head
    return Container("JSON objects", array_at=offset)


def _is_value(content: bytes) -> bool:
    """null, a number or a truth value: JSON, but nothing to learn."""
    return re.fullmatch(rb"null|true|false|-?[0-9][0-9.eE+-]*", content.rstrip(_BLANK)) is not None


def _is_json(line: bytes, named_json: bool) -> bool:
    if line.strip(_BLANK)[:1] not in ((b"{", b"[", b'"') if named_json else (b"{",)):
        return False
    try:
        parse_json(line)
    except (JsonError, UnicodeDecodeError):
        return False
    return True
