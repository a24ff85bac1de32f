"""From a file to counted rows."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.config.run_config import DataConfig
from qlora_studio.data import intake
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.importing import import_data
from qlora_studio.data.rows_writer import RowsWriter
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, import_path, reasons, turns

GOOD = b'{"question": "2 + 2?", "answer": "4"}\n'


def test_the_sample_data_is_imported_whole() -> None:
    report = import_path("sample").report

    assert (report.rows_in, report.imported, report.skipped, report.merged) == (300, 300, 0, 0)
    assert report.format == "question_answer"


@pytest.mark.fault(31)
def test_every_record_is_imported_skipped_or_merged(tmp_path: Path) -> None:  # D3
    content = GOOD + b"{broken\n" + GOOD + b'{"question": "?", "answer": " "}\n\n'

    data = import_bytes(tmp_path / "rows.jsonl", content)

    assert (data.report.rows_in, data.report.imported, data.report.skipped, data.report.merged) == (
        4,
        1,
        2,
        1,
    )
    assert reasons(data) == {"not valid JSON": [2], "no answer": [4]}
    assert findings(data) == {"skipped": 2, "duplicates": 1}


def test_the_first_of_equal_rows_is_kept_and_named(tmp_path: Path) -> None:
    other = b'{"question": "1 + 1?", "answer": "2"}\n'

    data = import_bytes(tmp_path / "rows.jsonl", other + GOOD + GOOD + other + GOOD)

    assert [row.line for row in data] == [1, 2]
    (duplicates,) = data.report.findings
    assert (duplicates.count, duplicates.rows) == (3, (0, 1))


def test_equal_rows_in_different_words_of_the_file_are_equal(tmp_path: Path) -> None:
    content = GOOD + b'{"answer": "\\u0034", "id": 7, "question": "2 + 2?"}\n'

    assert import_bytes(tmp_path / "rows.jsonl", content).report.merged == 1


def test_the_same_bytes_are_read_from_the_cache_wherever_they_lie(tmp_path: Path) -> None:  # D2
    first = import_bytes(tmp_path / "rows.jsonl", GOOD)
    moved = (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")

    second = import_path(moved)

    assert second.folder == first.folder
    assert second.report.path == str(moved)
    assert second.report.sha256 == first.report.sha256
    assert second.row(0, source=True).source == GOOD.decode().rstrip("\n")


def test_a_changed_mapping_reads_anew(tmp_path: Path) -> None:
    forth = import_bytes(tmp_path / "rows.jsonl", GOOD)

    back = import_path(tmp_path / "rows.jsonl", map={"prompt": "answer", "answer": "question"})

    assert turns(back.row(0)) == [("user", "4"), ("assistant", "2 + 2?")]
    assert back.folder != forth.folder


def test_damaged_rows_in_the_cache_are_made_again(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.jsonl", GOOD)
    arrow = next(data.folder.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-8])

    assert turns(import_path(tmp_path / "rows.jsonl").row(0)) == [("user", "2 + 2?"), ("assistant", "4")]


def test_an_import_that_fails_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    with pytest.raises(StudioError, match=r"no row can be used\. 1 of 1: no answer"):
        import_bytes(tmp_path / "rows.jsonl", b'{"question": "2 + 2?", "answer": ""}\n')

    assert list((home / "cache" / "datasets").iterdir()) == []


@pytest.mark.fault(9)
def test_a_full_disk_is_told_with_its_folder(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: RowsWriter) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RowsWriter, "finish", full)

    with pytest.raises(StudioError, match=r"can't be written to .*datasets: No space left"):
        import_bytes(tmp_path / "rows.jsonl", GOOD)

    assert list((home / "cache" / "datasets").iterdir()) == []


def test_a_faster_import_of_the_same_file_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD)
    faster: list[Dataset] = []

    def import_at_once(done: int, total: int, words: str) -> None:
        if not faster and "rows read" in words:
            faster.append(import_path(file))

    slower = import_data(DataConfig(path=str(file)), import_at_once)

    assert slower.dataset == faster[0].folder
    assert len(open_dataset(slower.dataset)) == 1


def test_the_largest_report_fits_into_one_message(tmp_path: Path) -> None:  # S13
    names = [f"{number:03}" + "\x01" * 97 for number in range(509)]
    first = json.dumps({"question": "a", "answer": "b"} | dict.fromkeys(names, 1))
    other = [f'{{"messages": [], "question": "a", "answer": {"[" * (row % 60 + 1)}' for row in range(40_000)]

    report = import_bytes(tmp_path / "rows.jsonl", "\n".join([first, *other]).encode()).report

    assert len(msgspec.json.encode(report)) < 900_000


def test_what_a_killed_import_left_is_removed_after_a_day(tmp_path: Path, home: Path) -> None:
    old, young = (home / "cache" / "datasets" / f".importing-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))

    import_bytes(tmp_path / "rows.jsonl", GOOD)

    assert (old.exists(), young.exists()) == (False, True)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:  # D2
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD)

    def change(done: int, total: int, words: str) -> None:
        file.write_bytes(GOOD + GOOD)

    with pytest.raises(StudioError, match=r"rows\.jsonl changed while it was read"):
        import_data(DataConfig(path=str(file)), change)


def test_neither_the_file_nor_its_folder_is_written_to(tmp_path: Path) -> None:  # D2 D11
    folder = tmp_path / "données 数据"
    folder.mkdir()
    file = folder / "a b'\"\n;$(x).jsonl"
    file.write_bytes(GOOD)
    file.chmod(0o400)
    folder.chmod(0o500)
    before = file.stat()

    data = import_path(file)

    folder.chmod(0o700)
    assert len(data) == 1
    assert list(folder.iterdir()) == [file]
    assert (file.stat().st_mtime_ns, file.read_bytes()) == (before.st_mtime_ns, GOOD)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_read_and_shown(tmp_path: Path) -> None:  # D11
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))

    data = import_bytes(file, GOOD)

    assert data.report.path.endswith("caf\\xe9.jsonl")
    assert data.row(0, source=True).source == GOOD.decode().rstrip("\n")


@pytest.mark.fault(31)
def test_nothing_usable_says_the_most_frequent_reason(tmp_path: Path) -> None:  # D3
    content = b'{"messages": [{"role": "user", "content": "?"}]}\n' * 3

    with pytest.raises(StudioError, match=r"no row can be used\. 3 of 3: no answer, first in line 1\."):
        import_bytes(tmp_path / "rows.jsonl", content)


def test_a_file_that_goes_on_without_a_usable_row_is_refused_before_its_end(  # D3
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_UNUSABLE_ROWS", 5)
    bad = [f'{{"question": "{number}?", "answer": ""}}\n'.encode() for number in range(8)]
    good = b'{"question": "?", "answer": "!"}\n'

    with pytest.raises(StudioError, match=r"rows\.jsonl: none of the first 5 rows can be used\. 5 of them"):
        import_bytes(tmp_path / "rows.jsonl", b"".join(bad) + good)
    late = import_bytes(tmp_path / "late.jsonl", b"".join(bad[:4]) + good + b"".join(bad))

    assert (late.report.imported, late.report.skipped) == (1, 12)


def test_more_rows_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D6
    monkeypatch.setattr(intake, "MAX_ROWS", 2)
    content = b"".join(b'{"question": "%d?", "answer": "4"}\n' % number for number in range(3))

    with pytest.raises(StudioError, match=r"rows\.jsonl has more rows than the 2 that are read"):
        import_bytes(tmp_path / "rows.jsonl", content)


def test_an_import_of_a_written_back_import_is_the_identity(tmp_path: Path) -> None:
    content = (
        b'{"messages": [{"role": "user", "content": " a\\n"}, {"role": "assistant", "content": "\\u00e9"}]}\n'
    )
    first = import_bytes(tmp_path / "rows.jsonl", content)
    again = [
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in row.messages]})
        for row in first
    ]

    second = import_bytes(tmp_path / "again.jsonl", "\n".join(again).encode())

    assert [row.messages for row in second] == [row.messages for row in first]


MARKS = rb'{ } [ ] " , : \ | 1e5 null NaN PAR1 "question" "answer" "messages" "role" "content" "text"'.split()
LINES = (GOOD, b'{"question": "a", "answer": 1}\n', b"question,answer\n", b'a,"b\n', b"\n\n", b"\r", b" ")
BYTES = (b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\\ud800")
PIECES = st.sampled_from([*MARKS, *LINES, *BYTES])


@pytest.mark.fault(31)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    content=st.lists(PIECES, max_size=30).map(b"".join) | st.binary(max_size=200),
    suffix=st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ""]),
)
def test_any_bytes_are_counted_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:  # D3
    file = tmp_path / f"any{suffix}"
    try:
        data = import_bytes(file, content)
    except StudioError as error:
        assert str(file) in error.message
        return
    report = data.report
    assert report.rows_in == report.imported + report.skipped + report.merged
    assert report.skipped == sum(problem.count for problem in report.problems)
    assert report.imported == len(data) == len(list(data)) > 0
    shutil.rmtree(data.folder)
