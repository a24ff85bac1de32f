"""What a file is, told by its content and not by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data.container import Container, container_of, mismatch
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.text_file import TextFile
from tests.data.imported_files import findings, import_bytes

ROW = '{"question": "a", "answer": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "container"),
    [
        ("a.jsonl", f"{ROW}\n{ROW}\n", Container("JSON lines")),
        ("a.json", f"{ROW}\n{ROW}\n", Container("JSON lines")),
        ("a.txt", f"{ROW}\n", Container("JSON lines")),
        ("a.json", f"{ROW[:-1]}\n{ROW}\n", Container("JSON lines")),
        ("a.jsonl", f" [{ROW},\n{ROW}]", Container("a JSON list", array_at=1)),
        ("a.csv", f"[\n{ROW}]", Container("a JSON list")),
        ("a.json", '{\n "question": "a",\n "answer": "b"\n}\n', Container("JSON objects")),
        ("a.json", f'{{"version": 1, "data": [{ROW}]}}', Container("a JSON list", array_at=23)),
        (
            "a.json",
            f'{{"schema": {{"fields": [{{"name": "a"}}]}}, "data": [{ROW}]}}',
            Container("a JSON list", array_at=48),
        ),
        ("a.json", f'{{"é": ["x", 1], "data": [{ROW}]}}', Container("a JSON list", array_at=25)),
        ("a.json", f'{{"type": "text2text", "instances": [{ROW}]}}', Container("a JSON list", array_at=35)),
        ("a.json", f'{{"instruction": "a", "instances": [{ROW}]}}', Container("JSON lines")),
        ("a.jsonl", f"[{ROW}]\n[{ROW}, {ROW}]\n", Container("JSON lines")),
        ("a.txt", "[1]\n[2]\n", Container("text")),
        ("a.csv", "sep=;\r\nx,y;z\r\n", Container("CSV", delimiter=";")),
        ("a.json", "question,answer\na,b\n", Container("CSV")),
        ("a.jsonl", '{"data": [{"a": 1}], "x": "y"}\n' * 2, Container("JSON lines")),
        ("a.csv", "x,y\n1,2\n", Container("CSV")),
        ("a.txt", "question\tanswer\n1\t2\n", Container("CSV", delimiter="\t")),
        ("a.csv", "a;b,c\n1;2\n3;4,5\n", Container("CSV", delimiter=";")),
        ("a.csv", "text\nhello; there\n", Container("CSV")),
        ("a.md", "[a link](x)\n\nmore", Container("text", paragraphs=True)),
        ("a.md", 'A row:\n{"question": "a", "answer": "b"}\n', Container("text")),
        ("a", "Hello, world\r\nagain\r\n", Container("text")),
    ],
)
def test_content_decides(tmp_path: Path, name: str, content: str, container: Container) -> None:  # D7
    file = tmp_path / name
    file.write_bytes(content.encode())

    with SourceFile(file) as source:
        assert container_of(TextFile(file, str(file), source, 0, "utf-8")) == container


def test_a_name_that_says_something_else_is_told(tmp_path: Path) -> None:  # D7
    data = import_bytes(tmp_path / "rows.json", f"{ROW}\n".encode())

    assert findings(data) == {"name": 1}
    assert data.report.findings[0].words == "The name ends in .json, the content is JSON lines."
    assert mismatch(Path("rows"), "CSV") == mismatch(Path("rows.csv"), "CSV") == ""


def test_a_list_within_an_object_is_read_with_its_lines(tmp_path: Path) -> None:
    data = import_bytes(
        tmp_path / "rows.json", f'{{"data": [\n{ROW},\n{{"question": "c", "answer": "d"}}\n]}}'.encode()
    )

    assert [row.line for row in data] == [2, 3]


def test_a_single_object_is_one_row(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "row.json", b'{\n "question": "a",\n "answer": "b"\n}\n')

    assert (data.report.rows_in, len(data)) == (1, 1)
