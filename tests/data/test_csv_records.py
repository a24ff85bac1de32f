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
from qlora_studio.data.csv_records import CsvTable
from qlora_studio.data.record import RecordError
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.text_file import TextFile
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, reasons, turns

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

    assert reasons(data) == {
        "1 cell, where the first row has 2": [3],
        "3 cells, where the first row has 2": [4],
    }


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


def _written(folder: Path, content: bytes) -> Path:
    (folder / "rows.csv").write_bytes(content)
    return folder / "rows.csv"


def _records(folder: Path, content: bytes, delimiter: str = ",") -> Found:
    file = _written(folder, content)
    with SourceFile(file) as source:
        records = CsvTable(TextFile(file, str(file), source), delimiter, headed=True).records()
        return [
            (record.place.line, str(record.value) if isinstance(record.value, RecordError) else record.value)
            for record in records
        ]


ROWS = b'"What is the capital, of France?",Paris\n"And of ""Italy""?\n(in short)",Rome\n'


def test_a_file_of_two_columns_without_a_header_loses_no_row(tmp_path: Path) -> None:  # D3
    data = import_bytes(tmp_path / "rows.csv", ROWS)

    assert [turns(row) for row in data] == [
        [("user", "What is the capital, of France?"), ("assistant", "Paris")],
        [("user", 'And of "Italy"?\n(in short)'), ("assistant", "Rome")],
    ]
    assert [row.line for row in data] == [1, 2]
    assert findings(data) == {"header": 1, "guess": 1}


def test_its_columns_are_mapped_by_number(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.csv", ROWS, map={"prompt": "column 2", "answer": "column 1"})

    assert turns(data.row(0)) == [("user", "Paris"), ("assistant", "What is the capital, of France?")]
    assert data.report.columns == ("column 1", "column 2")


def test_a_mapping_by_number_says_that_short_cells_are_no_header(tmp_path: Path) -> None:
    numbered = {"prompt": "column 1", "answer": "column 2"}

    data = import_bytes(tmp_path / "rows.tsv", b"hi\thello\nbye\tgoodbye\n", map=numbered)

    assert [turns(row)[0] for row in data] == [("user", "hi"), ("user", "bye")]


def test_a_mapping_by_name_says_that_the_first_row_is_a_header(tmp_path: Path) -> None:
    asked = "What would you like to know about us?"

    data = import_bytes(
        tmp_path / "rows.csv", f"{asked},said\na,b\n".encode(), map={"prompt": asked, "answer": "said"}
    )

    assert [turns(row) for row in data] == [[("user", "a"), ("assistant", "b")]]
    assert "header" not in findings(data)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b"Timestamp,What is your name?\n1,b\n", ("Timestamp", "What is your name?")),
        (b"question,This ends as a text does.\na,b\n", ("question", "This ends as a text does.")),
        (b"frage,antwort\na,b\n", ("frage", "antwort")),
        (b"a,b,This is no name of a column.\n1,2,3\n", ("a", "b", "This is no name of a column.")),
    ],
)
def test_a_header_is_taken_for_one(tmp_path: Path, content: bytes, columns: tuple[str, ...]) -> None:
    with SourceFile(_written(tmp_path, content)) as source:
        table = CsvTable(TextFile(source.path, source.name, source), ",")

    assert (tuple(table.columns), table.headless) == (columns, False)


def test_a_single_column_keeps_its_commas(tmp_path: Path) -> None:
    content = b'text\nOne, two; three\n"Four, ""five"""\n'

    data = import_bytes(tmp_path / "rows.csv", content)

    assert [row.text for row in data] == ["One, two; three", 'Four, "five"']
