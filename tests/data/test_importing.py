"""From a file to counted rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.importing import Imported, import_data
from qlora_studio.errors import StudioError


def imported(path: Path | str, **settings: object) -> Imported:
    return import_data(DataConfig(path=str(path), **settings), lambda done, total, words: None)  # type: ignore[arg-type]


def rows_of(path: Path | str, **settings: object) -> Dataset:
    return open_dataset(imported(path, **settings).dataset)


def test_the_sample_data_is_imported_whole() -> None:
    report = imported("sample").report

    assert (report.rows_in, report.imported, report.skipped, report.merged) == (300, 300, 0, 0)
    assert report.format == "question_answer"


def test_every_record_is_imported_skipped_or_merged(tmp_path: Path) -> None:  # D3
    file = tmp_path / "rows.jsonl"
    good = {"question": "2 + 2?", "answer": "4"}
    lines = [json.dumps(good), "{broken", json.dumps(good), json.dumps({"question": "?", "answer": " "}), ""]
    file.write_text("\n".join(lines))

    report = imported(file).report

    assert (report.rows_in, report.imported, report.skipped, report.merged) == (4, 1, 2, 1)
    assert {(problem.line, problem.reason) for problem in report.problems} == {
        (2, "not valid JSON"),
        (4, "no answer"),
    }


def test_a_second_import_is_read_from_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    first = imported(file)
    moved = file.rename(tmp_path / "moved.jsonl")

    second = imported(moved)

    assert second.dataset == first.dataset
    assert second.report.path == str(moved)
    assert open_dataset(second.dataset).row(0, source=True).source == '{"question": "2 + 2?", "answer": "4"}'


def test_an_import_that_fails_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "2 + 2?", "answer": ""}\n')

    with pytest.raises(StudioError, match="none of the 1 rows can be used"):
        imported(file)

    assert list((home / "cache" / "datasets").iterdir()) == []
