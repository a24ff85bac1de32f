"""Odd but good data files are imported whole; those that only seem good are refused by file and reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import reading
from tests.faults.odd_data import ODD
from tests.faults.reader_process import Reader, a_reader, asked

MOST_SECONDS = 15
GOOD = [name for name, (_, want) in ODD.items() if isinstance(want, tuple)]
BAD = [name for name, (_, want) in ODD.items() if isinstance(want, str)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One for all files."""
    with a_reader(tmp_path_factory.mktemp("home")) as child:
        yield child


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_is_imported_and_each_bad_row_counted(  # D3 D5 D7 D10
    reader: Reader, tmp_path: Path, name: str
) -> None:
    answer = _imported(reader, tmp_path / name)
    counts = ODD[name][1]

    assert isinstance(answer, reading.DataImported), answer
    assert (answer.report.imported, answer.report.skipped) == counts


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", BAD)
def test_a_file_that_only_seems_good_is_refused_by_file_and_reason(  # D3 D5 D7 R16
    reader: Reader, tmp_path: Path, name: str
) -> None:
    answer = _imported(reader, tmp_path / name)
    words = ODD[name][1]

    assert isinstance(answer, reading.Refused), answer
    assert str(words) in answer.error.message
    assert name in answer.error.message


def _imported(reader: Reader, path: Path) -> reading.ReaderAnswer:
    content, _ = ODD[path.name]
    path.write_bytes(content())
    answer, seconds = asked(reader, reading.ImportData(id=1, data=DataConfig(path=str(path))))
    assert seconds < MOST_SECONDS
    return answer
