"""The records of a plain text: its lines, or its paragraphs gathered into rows."""

from __future__ import annotations

from collections.abc import Iterator

from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.lines import numbered_lines
from qlora_studio.data.record import Place, Record, RecordError
from qlora_studio.data.text_file import TextFile, not_utf_8

GATHERED_BYTES = 8_000  # some 2,000 tokens of English: a row of the usual sequence length

LINES_ARE_ROWS = "Each line is a row: there are no blank lines."
PARAGRAPHS_ARE_ROWS = (
    f"Blank lines part paragraphs; as many as fit into {GATHERED_BYTES:,} bytes are one row, "
    "so that each has its context."
)

_TOO_LONG = RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB")


def text_records(text: TextFile, *, paragraphs: bool) -> Iterator[Record]:
    """Each line a record; with `paragraphs` as many whole paragraphs as fit into `GATHERED_BYTES`."""
    lines = _decoded_lines(text)
    return (
        _gathered(lines) if paragraphs else (_record(line, Place(*at)) for line, *at in lines if line.strip())
    )


def _gathered(lines: Iterator[tuple[str, int, int, int]]) -> Iterator[Record]:
    row: list[str] = []
    start = (1, 0)
    end = size = 0
    after_blank = False
    for line, number, offset, length in lines:
        blank = not line.strip()
        if row and after_blank and not blank and size + length > GATHERED_BYTES:
            yield _record("".join(row).rstrip(), Place(start[0], start[1], end - start[1]))
            row = []
        if blank and not row:
            continue
        if not row:
            start, size = (number, offset), 0
        row.append(line)
        size += length
        if not blank:
            end = offset + length
        after_blank = blank
    if row:
        yield _record("".join(row).rstrip(), Place(start[0], start[1], end - start[1]))


def _record(text: str, place: Place) -> Record:
    return Record(_TOO_LONG if place.size > MAX_ROW_BYTES else text.rstrip("\n"), place)


def _decoded_lines(text: TextFile) -> Iterator[tuple[str, int, int, int]]:
    """Line with its end as LF, its number, offset and size in bytes."""
    for line in numbered_lines(text):
        words = decoded(line.text, text, line.number).rstrip("\r\n") + "\n"
        yield words, line.number, line.offset, len(line.text)


def decoded(raw: bytes, text: TextFile, line: int) -> str:
    """Raises: StudioError naming the line where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(raw) > MAX_ROW_BYTES and error.end >= len(raw):
            return raw[: error.start].decode(
                "utf-8"
            )  # cut off in the middle of a character; it is skipped anyway
        raise not_utf_8(text, line, raw) from error
