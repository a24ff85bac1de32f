"""Odd but good data files are imported whole; those that only seem good are refused by file and reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import reading
from qlora_studio.protocol.child import Child, start_reader
from tests.faults.odd_data import ODD

MOST_SECONDS = 15
GOOD = [name for name, (_, want) in ODD.items() if isinstance(want, tuple)]
BAD = [name for name, (_, want) in ODD.items() if isinstance(want, str)]

Reader = Child[reading.ReaderRequest, reading.ReaderAnswer]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One for all files: what one leaves behind meets the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLORA_STUDIO_HOME", str(tmp_path_factory.mktemp("home")))
        child = start_reader()
        yield child
        child.kill()
        child.wait()


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_is_imported_and_each_bad_row_counted(  # D3 D5 D7 D10
    reader: Reader, tmp_path: Path, name: str
) -> None:
    content, counts = ODD[name]
    (tmp_path / name).write_bytes(content())

    answer = _asked(reader, tmp_path / name)

    assert isinstance(answer, reading.DataImported), answer
    assert (answer.report.imported, answer.report.skipped) == counts


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", BAD)
def test_a_file_that_only_seems_good_is_refused_by_file_and_reason(  # D3 D5 D7 R16
    reader: Reader, tmp_path: Path, name: str
) -> None:
    content, words = ODD[name]
    (tmp_path / name).write_bytes(content())

    answer = _asked(reader, tmp_path / name)

    assert isinstance(answer, reading.Refused), answer
    assert str(words) in answer.error.message
    assert name in answer.error.message


def _asked(reader: Reader, path: Path) -> reading.ReaderAnswer:
    start = time.monotonic()
    assert reader.say(reading.ImportData(id=1, data=DataConfig(path=str(path))))
    for answer in reader.heard():
        if not isinstance(answer, reading.Progress | reading.ReaderReady):
            assert time.monotonic() - start < MOST_SECONDS
            return answer
    raise AssertionError(reader.end_in_words() + reader.log.read_text())
