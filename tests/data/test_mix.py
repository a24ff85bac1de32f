"""Several data sets in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.data_set import data_set
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.mix import times_seen
from qlora_studio.data.preparing import Source, prepare
from qlora_studio.errors import StudioError
from tests.data.imported_files import turns
from tests.data.test_doctor import chat, silent
from tests.data.test_preparing import encoder_of, settings
from tests.data.test_recipe import write


def mixed(*parts: MixPart, **how: object) -> Dataset:
    data = DataConfig(path="", mix=parts, **how)  # type: ignore[arg-type]
    return open_dataset(data_set(data, silent).dataset)


def two_files(folder: Path) -> tuple[str, str]:
    first = write(folder / "first.jsonl", *(chat(f"hello {i}", f"a{i}") for i in range(4)))
    second = write(folder / "second.jsonl", *({"prompt": f"x{i}", "completion": f"y{i}"} for i in range(20)))
    return str(first), str(second)


def test_rows_of_all_files_stand_in_their_order_with_file_line_and_source(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)

    rows = mixed(MixPart(path=first), MixPart(path=second))

    assert len(rows) == 24
    assert (rows.row(3).file, rows.row(3).line) == ("first.jsonl", 4)
    assert (rows.row(4).file, rows.row(4).line) == ("second.jsonl", 1)
    assert turns(rows.row(5)) == [("user", "x1"), ("assistant", "y1")]
    assert rows.row(5, source=True).source == '{"prompt": "x1", "completion": "y1"}'


def test_what_was_counted_adds_up_over_the_files(tmp_path: Path) -> None:  # D3
    first, second = two_files(tmp_path)
    Path(first).write_text(Path(first).read_text("utf-8") + "{broken\n", "utf-8")

    report = mixed(MixPart(path=first), MixPart(path=second, weight=0.5)).report

    assert (report.rows_in, report.imported, report.skipped, report.conversations) == (25, 24, 1, 24)
    assert report.problems[0].reason.startswith("first.jsonl: ")
    assert [(part.path, part.weight, part.first_row, part.rows) for part in report.parts] == [
        (first, 1.0, 0, 4),
        (second, 0.5, 4, 20),
    ]
    assert report.sha256.count("+") == 1


def test_rows_that_are_equal_across_files_are_found_and_can_be_left_out(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    write(Path(second), chat("hello 2", "a2"), chat("other", "b"))
    parts = MixPart(path=first), MixPart(path=second)

    (finding,) = mixed(*parts).report.findings
    left = mixed(*parts, recipe=(finding.fix,))

    assert (finding.kind, finding.count, finding.rows) == ("equal_across_sets", 1, (4,))
    assert [part.rows for part in left.report.parts] == [4, 1]
    assert turns(left.row(4)) == [("user", "other"), ("assistant", "b")]


def test_what_is_counted_as_equal_is_what_the_fix_leaves_out(tmp_path: Path) -> None:
    """Rows that differ in a capital or in the system text are no copies, in one set or across."""
    system = {"messages": [{"role": "system", "content": "Be brief."}, *turns_of("one", "1")]}
    first = write(tmp_path / "first.jsonl", chat("one", "1"), chat("One", "1"), chat("two", "2"))
    second = write(tmp_path / "second.jsonl", system, chat("two", "2"), chat("TWO", "2"))
    third = write(tmp_path / "third.jsonl", chat("two", "2"), chat("one", "1"), chat("three", "3"))
    parts = tuple(MixPart(path=str(file)) for file in (first, second, third))

    (finding,) = mixed(*parts).report.findings
    left = mixed(*parts, recipe=(finding.fix,))

    assert (finding.count, finding.rows) == (3, (4, 6, 7))
    assert finding.groups == ((0, 7), (2, 4, 6))
    assert finding.fix_words == "Leave out 3 copies"
    assert left.report.fixes[0].left_out == finding.count
    assert left.report.findings == ()
    assert [row.line for row in left] == [1, 2, 3, 1, 3, 3]


def turns_of(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_answers_rated_both_ways_are_not_equal(tmp_path: Path) -> None:
    rated = {"prompt": "one", "completion": "1"}
    first = write(tmp_path / "first.jsonl", rated | {"label": True})
    second = write(tmp_path / "second.jsonl", rated | {"label": False})

    assert "equal_across_sets" not in [
        finding.kind for finding in mixed(MixPart(path=str(first)), MixPart(path=str(second))).report.findings
    ]


def test_a_mended_mixture_from_the_cache_tells_todays_weights_and_names(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    odd = chat("odd", "b") | {"messages": [*turns_of("odd", "b"), {"role": "user", "content": "?"}]}
    write(Path(second), chat("hello 2", "a2"), odd)
    fix = Fix(kind="rows", rows=(0,))
    before = mixed(MixPart(path=first), MixPart(path=second), recipe=(fix,))
    moved = str(Path(second).rename(tmp_path / "moved.jsonl"))

    again = mixed(MixPart(path=first, weight=3.0), MixPart(path=moved), recipe=(fix,))
    once_more = open_dataset(again.folder)

    assert again.folder == before.folder
    for report in (again.report, once_more.report):
        assert [(part.path, part.weight, part.rows) for part in report.parts] == [
            (first, 3.0, 3),
            (moved, 1.0, 2),
        ]
        assert report.path == f"{first} + {moved}"
        assert [finding.words.split(":")[0] for finding in report.findings if finding.kind == "open_end"] == [
            "moved.jsonl"
        ]
    assert once_more.row(3).file == "moved.jsonl"


def test_groups_of_a_finding_name_the_rows_that_are_left(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    write(Path(second), *(chat(f"hello {i}", f"a{i}") for i in (3, 1, 0)))

    report = mixed(MixPart(path=first), MixPart(path=second), recipe=(Fix(kind="rows", rows=(0, 2)),)).report

    (finding,) = report.findings
    assert finding.groups == ((0, 3), (1, 2))
    assert finding.rows == (2, 3, 4)  # what the last one equals is gone: the count is that of before
    assert finding.words == "3 rows equal an earlier one of the mixture, before the fixes"
    assert finding.fix_words == "Leave out what is left of them"


def test_damaged_numbers_of_the_rows_are_made_anew(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    parts, fix = (MixPart(path=first), MixPart(path=second)), Fix(kind="rows", rows=(0,))
    before = mixed(*parts, recipe=(fix,))
    (before.folder / "origins.npy").write_bytes(b"no array")

    again = mixed(*parts, recipe=(fix,))

    assert list(again) == list(before)
    assert len(np.load(again.folder / "origins.npy")) == 23


def test_each_part_has_its_own_format_columns_and_recipe(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    odd = write(tmp_path / "odd.jsonl", *({"p": f"p{i}", "q": f"q{i}"} for i in range(3)))
    mapped = MixPart(path=str(odd), format="prompt_completion", map={"prompt": "q", "answer": "p"})

    rows = mixed(MixPart(path=first, recipe=(Fix(kind="rows", rows=(0, 1)),)), mapped)

    assert turns(rows.row(2)) == [("user", "q0"), ("assistant", "p0")]
    assert rows.report.left_out_by_fixes == 2
    assert second not in rows.report.path


def test_the_rows_of_a_mixture_come_from_the_cache_whatever_the_weights(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    before = mixed(MixPart(path=first), MixPart(path=second))

    again = mixed(MixPart(path=first, weight=3.0), MixPart(path=second))

    assert again.folder == before.folder
    assert [part.weight for part in again.report.parts] == [3.0, 1.0]


def test_a_weight_says_how_often_a_row_is_seen(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    report = mixed(MixPart(path=first, weight=2.0), MixPart(path=second, weight=0.5)).report

    times = times_seen(report, [2.0, 0.5], 24, seed=0)

    assert times[:4].tolist() == [2, 2, 2, 2]
    assert (times[4:].sum(), times[4:].max()) == (10, 1)
    assert (times == times_seen(report, [2.0, 0.5], 24, seed=0)).all()
    assert (times != times_seen(report, [2.0, 0.5], 24, seed=1)).any()


def test_rows_are_learned_as_often_as_their_weight_says_and_held_out_once(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    parts = [{"path": first, "weight": 2.5}, {"path": second, "weight": 0.5}]
    config = settings(**{"data.path": "", "data.mix": parts, "data.validation": 0.25})
    rows = open_dataset(data_set(config.data, silent).dataset)

    prepared = prepare(Source(rows), encoder_of(tmp_path, config), config, silent)

    held_out = {prepared.validation[i].row for i in range(len(prepared.validation))}
    learned = [prepared.train[i].row for i in range(len(prepared.train))]
    times = times_seen(rows.report, [2.5, 0.5], 24, config.training.seed)
    assert len(held_out) == round(0.25 * np.count_nonzero(times)) == prepared.info.validation_rows
    assert held_out.isdisjoint(learned)
    assert all(learned.count(row) == times[row] for row in range(24) if row not in held_out)
    assert any("10 rows of the mixture are not seen" in note for note in prepared.info.notes)


def test_other_weights_are_prepared_anew(tmp_path: Path) -> None:  # R3
    first, second = two_files(tmp_path)

    def prepared(weight: float) -> Path:
        parts = [{"path": first, "weight": weight}, {"path": second}]
        config = settings(**{"data.path": "", "data.mix": parts})
        rows = open_dataset(data_set(config.data, silent).dataset)
        return prepare(Source(rows), encoder_of(tmp_path, config), config, silent).folder

    assert prepared(1.0) == prepared(1.0) != prepared(2.0)


def test_a_file_of_the_mixture_that_is_not_there_is_named(tmp_path: Path) -> None:
    first, _ = two_files(tmp_path)

    with pytest.raises(StudioError, match=r"gone\.jsonl"):
        mixed(MixPart(path=first), MixPart(path=str(tmp_path / "gone.jsonl")))


def test_a_path_beside_a_mixture_is_refused(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)

    with pytest.raises(StudioError, match="can't stand together"):
        data_set(DataConfig(path=first, mix=(MixPart(path=second),)), silent)
