"""Which files a folder gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data.data_files import data_files
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_path

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
