"""Rows mended by a recipe: a further data set, made the same way each time."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.data_set import data_set
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.errors import StudioError
from tests.data.test_doctor import RIVER, chat, silent

RECORDS = (
    chat("Tell me about the Rhine", RIVER),
    chat("2 + 2?", "4"),
    chat("Tell me about the Rhine", RIVER.replace("many", "some")),
    chat("2 + 2?", "5"),
    chat("And you?", "I'm sorry, but I can't help with that."),
    chat("Why?", "It doesnâ€™t work."),
    chat("Red?", "A colour."),
)


def write(file: Path, *records: dict[str, object]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return file


def mended(file: Path, *fixes: Fix) -> Dataset:
    return open_dataset(data_set(DataConfig(path=str(file), recipe=fixes), silent).dataset)


def lines(dataset: Dataset) -> list[int]:
    return [row.line for row in dataset]


@pytest.mark.parametrize(
    ("fix", "left"),
    [
        (Fix(kind="near_duplicates"), [1, 2, 4, 5, 6, 7]),
        (Fix(kind="near_duplicates", threshold=1.0), [1, 2, 3, 4, 5, 6, 7]),
        (Fix(kind="contradictions"), [1, 2, 3, 5, 6, 7]),
        (Fix(kind="refusals"), [1, 2, 3, 4, 6, 7]),
        (Fix(kind="rows", rows=(0, 6)), [2, 3, 4, 5, 6]),
        (Fix(kind="broken_encoding"), [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_each_fix_leaves_out_what_it_names(tmp_path: Path, fix: Fix, left: list[int]) -> None:
    rows = mended(write(tmp_path / "rows.jsonl", *RECORDS), fix)

    assert lines(rows) == left
    assert rows.report.left_out_by_fixes == len(RECORDS) - len(left)
    assert rows.report.conversations == len(rows) == len(left)


def test_the_equation_of_the_import_stays_as_it_was(tmp_path: Path) -> None:  # D3
    report = mended(write(tmp_path / "rows.jsonl", *RECORDS), Fix(kind="refusals")).report

    assert (report.rows_in, report.imported, report.skipped, report.merged) == (7, 7, 0, 0)


def test_fixes_follow_one_another_and_each_is_counted(tmp_path: Path) -> None:
    fixes = (Fix(kind="near_duplicates"), Fix(kind="contradictions"), Fix(kind="rows", rows=(2, 4)))

    rows = mended(write(tmp_path / "rows.jsonl", *RECORDS), *fixes)

    assert lines(rows) == [1, 2, 6, 7]
    assert [(count.fix, count.left_out) for count in rows.report.fixes] == [
        (fixes[0], 1),
        (fixes[1], 1),
        (fixes[2], 1),  # row 2 was gone already
    ]


def test_a_broken_encoding_is_mended_in_the_rows_and_the_source_stays(tmp_path: Path) -> None:
    rows = mended(write(tmp_path / "rows.jsonl", *RECORDS), Fix(kind="broken_encoding"))

    row = rows.row(5, source=True)

    assert row.messages[1].content == "It doesn’t work."
    assert row.source == json.dumps(RECORDS[5])
    assert rows.report.fixes[0].mended == 1
    assert rows.row(1).messages[1].content == "4"


def test_pairs_and_texts_are_mended_too(tmp_path: Path) -> None:
    pair = {"prompt": "Why?", "chosen": "It doesnâ€™t", "rejected": "Noâ€¦"}
    pairs = mended(
        write(tmp_path / "pairs.jsonl", pair, {**pair, "prompt": "How?"}), Fix(kind="broken_encoding")
    )
    texts = mended(write(tmp_path / "texts.jsonl", {"text": "itâ€™s"}), Fix(kind="broken_encoding"))

    assert [turn.content for turn in pairs.row(1).messages] == ["How?", "It doesn’t"]
    assert [turn.content for turn in pairs.row(1).rejected] == ["How?", "No…"]
    assert texts.row(0).text == "it’s"


def test_the_same_file_and_recipe_give_the_same_rows_from_the_cache(tmp_path: Path) -> None:  # D2
    file = write(tmp_path / "rows.jsonl", *RECORDS)
    first = mended(file, Fix(kind="near_duplicates"))
    moved = tmp_path / "elsewhere.jsonl"
    file.rename(moved)

    again = mended(moved, Fix(kind="near_duplicates"))

    assert again.folder == first.folder
    assert list(again) == list(first)
    assert again.report.path == str(moved)
    assert again.row(1, source=True).source == json.dumps(RECORDS[1])


def test_without_its_last_fix_a_recipe_is_undone(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *RECORDS)
    before = mended(file)
    mended(file, Fix(kind="refusals"))

    assert mended(file).folder == before.folder
    assert lines(mended(file)) == [1, 2, 3, 4, 5, 6, 7]


def test_rows_of_a_test_file_are_left_out_and_another_test_file_makes_other_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *RECORDS)
    test = write(tmp_path / "test.jsonl", chat("Red?", "What?"))
    fix = Fix(kind="test_rows", path=str(test))
    first = lines(mended(file, fix))
    write(test, chat("2 + 2?", "4"))

    assert (first, lines(mended(file, fix))) == ([1, 2, 3, 4, 5, 6], [1, 3, 5, 6, 7])


def test_findings_of_the_import_name_the_rows_where_they_stand_now(tmp_path: Path) -> None:
    empty = {"messages": [*RECORDS[1]["messages"], {"role": "user", "content": "?"}]}  # type: ignore[misc]
    file = write(tmp_path / "rows.jsonl", *RECORDS[:2], empty)

    kept = mended(file, Fix(kind="rows", rows=(0,)))
    gone = mended(file, Fix(kind="rows", rows=(2,)))

    assert [(finding.kind, finding.rows) for finding in kept.report.findings] == [("open_end", (1,))]
    assert gone.report.findings == ()


def test_a_recipe_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", RECORDS[4])

    with pytest.raises(StudioError, match="leave no row"):
        mended(file, Fix(kind="refusals"))


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *RECORDS)

    with pytest.raises(StudioError, match="leaves out row 7, and there are 7 rows"):
        mended(file, Fix(kind="rows", rows=(7,)))


def test_nothing_is_left_behind_in_the_cache_by_a_recipe_that_fails(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", RECORDS[4])
    folder = mended(file).folder.parent

    with pytest.raises(StudioError):
        mended(file, Fix(kind="refusals"))

    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_recipe_travels_as_plain_json() -> None:
    recipe = (Fix(kind="rows", rows=(1,)), Fix(kind="near_duplicates", threshold=0.8))

    assert msgspec.json.decode(msgspec.json.encode(recipe), type=tuple[Fix, ...]) == recipe
