"""Which files a folder gives."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qlora_studio.data.data_files import data_files
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_path

ROOT = Path(__file__).parents[2]
ROW = '{"question": "%s", "answer": "b"}\n'


def test_data_files_are_read_in_order_and_other_files_left(tmp_path: Path) -> None:  # D1
    for name in (
        "b.jsonl",
        "a.jsonl",
        "data/c.jsonl",
        "README.md",
        "load.py",
        ".hidden.jsonl",
        ".git/d.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ROW % name)

    data = import_path(tmp_path)

    assert [(row.file, row.messages[0].content) for row in data] == [
        ("a.jsonl", "a.jsonl"),
        ("b.jsonl", "b.jsonl"),
        ("c.jsonl", "data/c.jsonl"),
    ]
    assert data.row(2, source=True).source == (ROW % "data/c.jsonl").strip()
    assert [finding.words for finding in data.report.findings] == [
        "Not read, as they hold no rows: .git, .hidden.jsonl, README.md, load.py"
    ]


def test_held_out_splits_are_not_learned(tmp_path: Path) -> None:
    for name in ("train-00000.jsonl", "test-00000.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text(ROW % name)

    data = import_path(tmp_path)

    assert [row.messages[0].content for row in data] == ["train-00000.jsonl"]
    assert findings(data) == {"held_out": 2}


def test_names_without_a_training_split_are_all_read(tmp_path: Path) -> None:
    for name in ("test.jsonl", "latest.jsonl"):
        (tmp_path / name).write_text(ROW % name)

    assert len(data_files(str(tmp_path)).files) == 2


def test_files_of_different_formats_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW % "a")
    (tmp_path / "b.txt").write_text("text\n")

    with pytest.raises(StudioError, match=r"a\.jsonl holds question_answer rows, .*b\.txt holds text rows"):
        import_path(tmp_path)


def test_one_hash_stands_for_all_files_and_changes_with_each(tmp_path: Path) -> None:  # D2
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(ROW % name)
    first = import_path(folder).report.sha256
    again = import_path(folder).report.sha256
    (folder / "b.jsonl").write_text(ROW % "c")

    assert first == again != import_path(folder).report.sha256


def test_a_link_out_of_the_folder_is_not_followed_to_other_folders(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").write_text(ROW % "a")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "link").symlink_to(tmp_path / "other")

    with pytest.raises(StudioError, match="holds no data file"):
        data_files(str(tmp_path / "chosen"))


@pytest.mark.parametrize("path", ["", "~nobody-of-this-name/rows.jsonl", "\x00"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(StudioError):
        import_path(path)


def test_many_names_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW % "a")
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"")

    (finding,) = import_path(tmp_path).report.findings

    assert finding.words == "Not read, as they hold no rows: 0.png, 1.png, 2.png, 3.png, 4.png and 4 more"
    assert finding.count == 9


def test_compressed_and_plain_files_lie_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW % "a")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"question,answer\nb,b\n"))
    (tmp_path / "c.gz").write_bytes(gzip.compress((ROW % "c").encode()))

    data = import_path(tmp_path)

    assert [row.messages[0].content for row in data] == ["a", "b"]
    assert findings(data) == {"ignored": 1}


def test_a_folder_as_the_hub_lays_it_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        pq.write_table(
            pa.table({"question": [f"{number}?"], "answer": ["b"]}), tmp_path / "data" / f"{name}.parquet"
        )
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs\n")

    data = import_path(tmp_path)

    assert [row.messages[0].content for row in data] == ["0?", "1?"]
    assert [finding.words for finding in data.report.findings] == [
        "Left out by their names: data/test-00000-of-00001.parquet",
        "Not read, as they hold no rows: .gitattributes, README.md",
    ]


def test_an_empty_part_and_what_office_keeps_of_an_open_file_hold_no_rows(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text(ROW % "a")
    (tmp_path / "1.jsonl").touch()
    (tmp_path / "~$rows.csv").write_bytes(b"\x04Jane" + bytes(160))

    data = import_path(tmp_path)

    assert (len(data), data.report.findings[0].words) == (
        1,
        "Not read, as they hold no rows: ~$rows.csv, 1.jsonl",
    )


def test_the_same_rows_beside_other_files_are_told_with_those(tmp_path: Path) -> None:  # D2
    for folder, other in (("a", "load.py"), ("b", "README.md"), ("c", "")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(ROW % "a")
        (tmp_path / folder / (other or "rows.jsonl")).write_text(ROW % "a")

    told = [import_path(tmp_path / folder).report for folder in "abc"]

    assert [[finding.words.rpartition(": ")[2] for finding in report.findings] for report in told] == [
        ["load.py"],
        ["README.md"],
        [],
    ]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"question": ["a", "b", "c"], "answer": ["1", "2", "3"]})
    rows.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    rows.select([0]).save_to_disk(str(tmp_path / "other"))
    (tmp_path / "other" / "data-00000-of-00001.arrow").rename(tmp_path / "saved" / "cache-0a1b.arrow")

    data = import_path(tmp_path / "saved")

    assert [row.messages[0].content for row in data] == ["a", "b", "c"]
    assert [finding.words for finding in data.report.findings] == [
        "Not read, as they hold no rows: cache-0a1b.arrow, dataset_info.json, state.json"
    ]


def test_only_the_training_rows_of_saved_splits_are_learned(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {
        name: datasets.Dataset.from_dict({"question": [name], "answer": ["1"]})
        for name in ("train", "test", "validation")
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))

    data = import_path(tmp_path / "saved")

    assert [row.messages[0].content for row in data] == ["train"]
    assert data.report.findings[0].words == (
        "Left out by their names: test/data-00000-of-00001.arrow, validation/data-00000-of-00001.arrow"
    )


@pytest.mark.parametrize("name", ["missing.arrow", "../outside.arrow", "/etc/passwd", "", "sub/a.arrow"])
def test_a_saved_folder_names_only_files_of_its_own(tmp_path: Path, name: str) -> None:  # D1
    (tmp_path / "outside.arrow").write_bytes(b"")
    (tmp_path / "saved" / "sub").mkdir(parents=True)
    (tmp_path / "saved" / "sub" / "a.arrow").write_bytes(b"")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))

    with pytest.raises(StudioError, match=r"state\.json names .* which isn't in its folder"):
        import_path(tmp_path / "saved")


def test_a_saved_selection_of_rows_is_refused(tmp_path: Path) -> None:  # its rows are others than the files'
    state = {"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))

    with pytest.raises(StudioError, match="names a selection of rows"):
        import_path(tmp_path)


@pytest.mark.parametrize(
    "state", [b"", b"{", b"[]", b'{"step": 3}', b"[" * 100_000, b'{"_data_files": [{"filename": "\xff"}]}']
)
def test_another_state_says_nothing(tmp_path: Path, state: bytes) -> None:
    (tmp_path / "a.jsonl").write_text(ROW % "a")
    (tmp_path / "state.json").write_bytes(state)

    assert findings(import_path(tmp_path)) == {"ignored": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_named_as_the_state_is_not_waited_for(tmp_path: Path) -> None:  # D1
    (tmp_path / "a.jsonl").write_text(ROW % "a")
    os.mkfifo(tmp_path / "state.json")
    script = (
        "import sys\n"
        "from qlora_studio.data.data_files import data_files\n"
        "print([path.name for path in data_files(sys.argv[1]).files])\n"
    )

    ended = subprocess.run(  # a process of its own: a hang ends it, and no OSError handler sees the limit
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert ended.stdout.strip() == "['a.jsonl']", ended.stderr[-2_000:]


def test_hundreds_of_compressed_files_are_read_with_few_descriptors(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:04}.txt.gz").write_bytes(gzip.compress(b"text %d" % number))
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))\n"
        "from tests.data.imported_files import import_path\n"
        "print(len(import_path(sys.argv[1])))\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (ended.stdout.strip(), ended.returncode) == ("300", 0), ended.stderr[-2_000:]
