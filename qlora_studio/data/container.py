"""What a file is, told by its content and not by its name: JSON lines, a JSON list, CSV, Parquet or text."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.data.source_file import SourceFile, TextFile
from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.errors import StudioError

PARQUET_MAGIC = b"PAR1"
HEAD_BYTES = 1 << 20

_EXPECTED = {
    ".json": "a JSON list",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}
DATA_SUFFIXES = frozenset(_EXPECTED)
_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_TEXT_SUFFIXES = (".txt", ".md", ".markdown")

_BLANK = b" \t\r\n"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_WRAPPED = re.compile(
    rb'\{\s*(?:"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[0-9.]+|true|false|null)\s*,\s*){0,20}'
    rb'"(?:data|rows|train|examples|items|records|dataset|samples|entries)"\s*:\s*(?=\[\s*[{\]])'
)
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r)[ \t]*(?:\r\n|\n|\r)")
_DELIMITERS = ",\t;|"
_HEADER_WORDS = {
    *("instruction", "input", "output", "prompt", "completion", "question", "answer", "response", "text"),
    *("context", "system", "query", "chosen", "rejected", "history", "category", "content", "label"),
    *("id", "target", "source", "messages", "conversations"),
}


@dataclass(frozen=True)
class Container:
    """kind: JSON lines | a JSON list | CSV | Parquet | text

    array_at:   offset where the list begins, or the first of values that just follow each other
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
            f"{source.path} begins as Parquet but is cut off: its end is missing.",
            hint="Copy or download it again.",
        )
    if source.size and not begins and source.path.suffix.lower() == ".parquet":
        raise StudioError(f"{source.path} is not Parquet, though its name says so.")
    return begins


def container_of(text: TextFile) -> Container:
    """Raises: StudioError where it holds nothing, or is no JSON though its name says so."""
    suffix = text.path.suffix.lower()
    head = text.source.read(text.start, HEAD_BYTES)
    start = len(head) - len(head.lstrip(_BLANK))
    first = head[start : start + 1]
    if not first:
        raise StudioError(f"{text.path} is empty.", hint="Choose a file with rows in it.")
    if first == b"[" and (suffix in _JSON_SUFFIXES or re.match(rb"\[\s*[\]{]", head[start:])):
        return Container("a JSON list", array_at=text.start + start)
    if (json := _json_of_objects(head[start:], text.start + start, suffix)) is not None:
        return json
    if suffix in _JSON_SUFFIXES:
        raise StudioError(
            f"{text.path} is not JSON, though its name says so.",
            hint="A JSON file holds one list of objects, or one object a line.",
        )
    if suffix in (".csv", ".tsv") or (suffix not in _TEXT_SUFFIXES and _has_known_header(head)):
        return Container("CSV", delimiter=_delimiter_of(head, suffix))
    if suffix in _TEXT_SUFFIXES and _has_known_header(head):
        return Container("CSV", delimiter=_delimiter_of(head, suffix))
    return Container("text", paragraphs=bool(_BLANK_LINE.search(head.strip(_BLANK))))


def mismatch(path: Path, kind: str) -> str:
    """What to say where the content is not what the name says; empty where it is."""
    expected = _EXPECTED.get(path.suffix.lower())
    if expected is None or expected == kind:
        return ""
    return f"The name ends in {path.suffix}, the content is {kind}."


def _json_of_objects(head: bytes, offset: int, suffix: str) -> Container | None:
    lines = [line for line in _LINE_END.split(head, maxsplit=40) if line.strip(_BLANK)][:20]
    wrapped = _WRAPPED.match(head)
    if wrapped:
        return Container("a JSON list", array_at=offset + wrapped.end())
    if any(_is_json(line, suffix) for line in lines):
        return Container("JSON lines")
    if head[:1] != b"{":
        return None
    cut_off = len(head) >= HEAD_BYTES // 2 and len(lines) == 1
    if cut_off and re.match(rb'\{\s*"', head):
        return Container("JSON lines")  # a first line of more than a megabyte
    if suffix in _JSON_SUFFIXES or re.match(rb'\{\s*"[^"\\]*"\s*:', head):
        return Container("a JSON list", array_at=offset)
    return None


def _is_json(line: bytes, suffix: str) -> bool:
    opening = b'{["' if suffix in _JSON_SUFFIXES else b"{"
    if line.strip(_BLANK)[:1] not in [opening[i : i + 1] for i in range(len(opening))]:
        return False
    try:
        parse_json(line)
    except (JsonError, UnicodeDecodeError):
        return False
    return True


def _has_known_header(head: bytes) -> bool:
    header = _LINE_END.split(head, maxsplit=1)[0].decode("utf-8", "ignore")
    for delimiter in _DELIMITERS:
        cells = [cell.strip().strip('"').lower() for cell in header.split(delimiter)]
        if len(cells) > 1 and sum(cell in _HEADER_WORDS for cell in cells) >= 2:
            return True
    return False


def _delimiter_of(head: bytes, suffix: str) -> str:
    """The one that gives the header the most cells, as long as the rows agree with it."""
    lines = head.decode("utf-8", "ignore").splitlines(keepends=True)[:200]
    if len(head) >= HEAD_BYTES:
        lines = lines[:-1]
    best, best_score = ("\t" if suffix == ".tsv" else ","), (0.0, 0)
    for delimiter in _DELIMITERS:
        rows = _rows(lines, delimiter)
        cells = len(rows[0]) if rows else 0
        if cells < 2:
            continue
        agreeing = sum(len(row) == cells for row in rows[1:]) / max(1, len(rows) - 1)
        score = (round(agreeing, 1), cells)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    rows = []
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            if row:
                rows.append(row)
    except csv.Error:
        pass
    return rows
