"""docs/RELIABILITY.md names tests that exist; each test of a fault is named there by its number."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "RELIABILITY.md").read_text("utf-8")
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_test_named_there_exists():
    named = NAMED.findall(PAGE)

    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(TESTS / file)]

    assert len(named) > 100
    assert not missing


def test_a_fault_names_the_tests_that_carry_its_number_and_no_others():
    named = {(int(number), *test) for number, row in rows(r"\d+") for test in NAMED.findall(row)}

    marked = set(marked_tests())

    assert named - marked == set()
    assert marked - named == set()


def test_every_promise_and_fault_has_its_row():
    promises = [f"R{number}" for number in range(1, 17)]
    promises += [f"S{number}" for number in range(1, 15)] + [f"D{number}" for number in range(1, 12)]
    assert [name for name, _ in rows(r"[RSD]\d+")] == promises
    assert [int(number) for number, _ in rows(r"\d+")] == list(range(1, 35))


def rows(first_cell: str) -> list[tuple[str, str]]:
    """First cell and rest of each row of a table whose first cell is that pattern."""
    return re.findall(rf"^\| ({first_cell}) \|(.*)$", PAGE, re.MULTILINE)


def functions_of(file: Path) -> dict[str, ast.FunctionDef]:
    """The functions of a file by name; none where there is no such file."""
    if not file.is_file():
        return {}
    body = ast.parse(file.read_text("utf-8")).body
    return {item.name: item for item in body if isinstance(item, ast.FunctionDef)}


def marked_tests() -> Iterator[tuple[int, str, str]]:
    """Fault, file and name of each test with a marker `fault(number)`."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for name, item in functions_of(file).items():
            for decorator in item.decorator_list:
                written = re.fullmatch(r"pytest\.mark\.fault\((\d+)\)", ast.unparse(decorator))
                if written:
                    yield int(written[1]), file.relative_to(TESTS).as_posix(), name
