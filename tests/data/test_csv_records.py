"""CSV: cells are text and stay as they are."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import csv_records as module
from qlora_studio.data import lines
from qlora_studio.data.csv_records import csv_records
from qlora_studio.data.record import RecordError
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.text_file import TextFile
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_bytes, reasons, turns

Found = list[tuple[int, dict[str, str] | str]]
CELL = st.text(alphabet='ab ",;\n\r\té\u2028', max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1), delimiter=st.sampled_from(",\t;|"))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str
) -> None:  # D4
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])

    found = _records(tmp_path, written.getvalue().encode(), delimiter)

    assert [value for _, value in found] == [{"a": a, "b": b} for a, b in rows]


@pytest.mark.parametrize("cell", ["00123", "NA", "1e5", "  x ", "null", "True", "3.10", "nan"])
def test_cells_are_never_typed(tmp_path: Path, cell: str) -> None:  # D4
    data = import_bytes(tmp_path / "rows.csv", f"question,answer\nq,{cell}\n".encode())

    assert turns(data.row(0)) == [("user", "q"), ("assistant", cell)]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.csv", "question,answer"),
        ("a.csv", "question;answer"),
        ("a.tsv", "question\tanswer"),
        ("a", "question|answer"),
    ],
)
def test_the_delimiter_is_found(tmp_path: Path, name: str, header: str) -> None:
    delimiter = header[8]
    rows = f'{header}\r\n"a, b"{delimiter}"c; d"\r\n'

    assert turns(import_bytes(tmp_path / name, rows.encode()).row(0)) == [
        ("user", "a, b"),
        ("assistant", "c; d"),
    ]


def test_each_row_knows_the_line_it_begins_in_and_its_text(tmp_path: Path) -> None:
    content = b'question,answer\r\n"two\r\nlines","1"\r\n\r\nq,2\r\n'

    data = import_bytes(tmp_path / "rows.csv", content)

    assert [row.line for row in data] == [2, 5]
    assert data.row(0, source=True).source == '"two\r\nlines","1"'
    assert data.row(0).messages[0].content == "two\r\nlines"


def test_rows_with_too_few_or_too_many_cells_are_skipped(tmp_path: Path) -> None:  # D3
    data = import_bytes(tmp_path / "rows.csv", b"question,answer\nq,a\nq\nq,a,b\n")

    assert reasons(data) == {"1 cell, where the header has 2": [3], "3 cells, where the header has 2": [4]}


def test_a_lost_quote_costs_one_line_only(tmp_path: Path) -> None:  # D3
    content = b'a,b\n1,"x\n2,y\n3,z\n4,"w" w\n5,v\n'

    assert _records(tmp_path, content) == [
        (2, "a quote is opened and not closed where it should be"),
        (3, {"a": "2", "b": "y"}),
        (4, {"a": "3", "b": "z"}),
        (5, "text follows a closing quote"),
        (6, {"a": "5", "b": "v"}),
    ]


def test_many_lost_quotes_end_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D1
    monkeypatch.setattr(module, "_MOST_READ_AGAIN", 1_000)

    with pytest.raises(StudioError, match=r"the quotes don't match from line \d+ on"):
        _records(tmp_path, b"a,b\n" + b'1,"x\n"y",2\n' * 300)


def test_a_row_over_the_limit_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D6
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 100)
    content = b"a,b\n1," + b"x" * 200 + b"\n2,y\n"

    found = _records(tmp_path, content)

    assert found[0][0] == 2
    assert isinstance(found[0][1], str)
    assert found[1] == (3, {"a": "2", "b": "y"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,a\n1,2\n", "the column 'a' stands twice"),
        (",".join(f"c{i}" for i in range(513)).encode() + b"\n", "513 columns; at most 512"),
        (b'"a"x,b\n1,2\n', "the header can't be read"),
        (b"question,answer\n", "holds no rows"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(StudioError, match=words):
        import_bytes(tmp_path / "rows.csv", content)


def _records(folder: Path, content: bytes, delimiter: str = ",") -> Found:
    file = folder / "rows.csv"
    file.write_bytes(content)
    with SourceFile(file) as source:
        records = csv_records(TextFile(file, str(file), source, 0, "utf-8"), delimiter)
        return [
            (record.place.line, str(record.value) if isinstance(record.value, RecordError) else record.value)
            for record in records
        ]
