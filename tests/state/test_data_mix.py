"""Several data sets in one: read one after the other, weighed, mended and taken out, each step undone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import Qt

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.config.run_config import SAMPLE, DataConfig, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.report import Finding, FixCount, ImportReport, PartReport, SkipReason
from qlora_studio.protocol import reading
from qlora_studio.state.data_fixes import lies_within
from qlora_studio.state.data_mix import WEIGHT
from qlora_studio.state.data_name import data_name
from qlora_studio.state.train_cost import Stretch, kept_rows, stretches, updates
from tests.state.reports import import_report

A, B, C = "/data/support.jsonl", "/data/sums.csv", "/data/notes.txt"
ROWS = {A: 6, B: 4, C: 2, SAMPLE: 3}
FORMATS = {A: "sharegpt", B: "question_answer", C: "text", SAMPLE: "question_answer"}
COPIES = Fix(kind="near_duplicates")
TWICE = Finding(kind="near_duplicates", tone="warn", count=1, words="1 copy", why="Twice.", fix=COPIES)


@pytest.fixture
def read(data, silent):
    """Answers all that is asked for until the rows are there, as a reader does."""

    def answer(**changes):
        while silent.asked(reading.ImportData):
            asked = silent.asked(reading.ImportData)[0].data
            report = mixed_report(asked, **changes) if asked.mix else report_of(asked)
            dataset = f"/cache/{len(asked.mix)}-{asked.path}"
            silent.answer(reading.ImportData, reading.DataImported, dataset=dataset, report=report)

    return answer


def report_of(asked: DataConfig) -> ImportReport:
    """Of one file; each fix of its recipe leaves one row out."""
    rows = ROWS[asked.path]
    return import_report(
        asked.path,
        rows_in=rows,
        imported=rows,
        conversations=rows - len(asked.recipe),
        format=FORMATS[asked.path],
        columns=("question", "answer"),
        findings=(TWICE,),
        fixes=tuple(FixCount(fix, 1) for fix in asked.recipe),
    )


def mixed_report(asked: DataConfig, **changes) -> ImportReport:
    parts, first = [], 0
    for part in asked.mix:
        rows = ROWS[part.path] - len(part.recipe)
        parts.append(PartReport(part.path, part.weight, first, rows, "f" * 64, len(part.recipe)))
        first += rows
    fixes = tuple(FixCount(fix, 1) for fix in asked.recipe)
    values = {"rows_in": first, "imported": first, "conversations": first, "parts": tuple(parts)}
    return import_report(" + ".join(part.path for part in asked.mix), **values, fixes=fixes, **changes)


def listed(data, column):
    return [data.mix.data(data.mix.index(row, column)) for row in range(data.mix.rowCount())]


# On the way to rows


def test_several_files_are_read_one_after_the_other_and_then_mixed(data, silent, read):
    data.read_all([A, B, A])
    (first,) = silent.asked(reading.ImportData)
    silent.tell_progress(reading.ImportData, 1, 4, "3 rows read")

    assert first.data == DataConfig(path=A)
    assert data.file.words == "Reading support.jsonl, 1 of 2: 3 rows read"
    read()
    assert data.data.mix == (MixPart(path=A), MixPart(path=B))
    assert (data.data.path, data.name) == ("", "support.jsonl + sums.csv")
    assert listed(data, 0) == ["support.jsonl", "sums.csv"]
    assert listed(data, 1) == ["ShareGPT chats", "Question and answer"]
    assert listed(data, 2) == ["6", "4"]
    assert listed(data, WEIGHT) == ["1", "1"]


def test_the_table_keeps_the_rules_of_a_model(data, read, qtmodeltester):
    data.read_all([A, B])
    read()
    qtmodeltester.check(data.mix, force_py=True)


def test_which_file_of_a_mixture_was_refused_is_known_and_that_one_is_mended(data, silent, read):
    data.read_all([A, B])
    silent.answer(
        reading.ImportData, reading.DataImported, dataset="/a", report=report_of(DataConfig(path=A))
    )
    silent.refuse(reading.ImportData, "sums.csv: no column says which text is the prompt.")
    (asked,) = silent.asked(reading.ShowColumns)
    assert (asked.path, data.file.refused_file.path) == (B, B)

    data.read_columns({"prompt": "sum", "answer": "result"})
    read()
    assert data.data.mix[1].map == {"prompt": "sum", "answer": "result"}
    assert data.data.mix[0].map == {}


def test_files_of_a_mixture_are_remembered_each_by_itself(app, data, read):
    data.read_all([A, B])
    read()
    assert app.preferences.values.data == [A, B]


# Adding and taking out


def test_what_a_file_was_mended_by_stays_with_it_when_another_is_added(app, data, read):
    data.read(A)
    read()
    data.fix("near_duplicates")
    read()
    data.use()
    assert data.add([B]) == []
    read()

    assert data.data.mix == (MixPart(path=A, recipe=(COPIES,)), MixPart(path=B))
    assert data.data.recipe == ()
    assert app.draft.config.data.mix == data.data.mix
    assert [fix.words for fix in data.fixes()] == ["support.jsonl: 1 copy was left out"]
    assert data.undo()
    read()
    assert (data.data.path, data.data.recipe, data.mix.sets) == (A, (COPIES,), ())
    assert app.draft.config.data.path == A


def test_a_file_that_is_in_the_mixture_is_not_added_again(data, silent, read):
    data.read_all([A, B])
    read()

    assert data.add([B]) == [B]
    assert silent.asked(reading.ImportData) == []


def test_a_file_that_can_not_be_added_leaves_the_rows_and_no_step(data, silent, read):
    data.read(A)
    read()
    data.add([B])
    silent.answer(
        reading.ImportData, reading.DataImported, dataset="/a", report=report_of(DataConfig(path=A))
    )
    silent.refuse(reading.ImportData, "sums.csv can't be read: No such file.")

    assert (data.data.path, data.steps.canUndo()) == (A, False)
    data.read_as("text")
    read()
    assert data.data.mix[1].format == "text"
    assert data.undo()


def test_the_last_data_set_is_no_mixture_any_more(data, read):
    data.read_all([A, B, C])
    read()
    data.remove(1)
    read()
    assert [part.path for part in data.data.mix] == [A, C]

    data.remove(0)
    read()
    assert (data.data, data.mix.rowCount()) == (DataConfig(path=C), 0)
    assert data.undo()
    read()
    assert listed(data, 0) == ["support.jsonl", "notes.txt"]


def test_a_data_set_is_read_in_another_way_by_itself(data, silent, read):
    data.read_all([A, B])
    read()
    data.choose_part(1)
    data.read_as("text")
    asked = [request.data for request in silent.asked(reading.ImportData)]
    assert asked == [DataConfig(path=A)]
    read()

    assert [part.format for part in data.data.mix] == ["auto", "text"]
    assert data.undo()
    read()
    assert [part.format for part in data.data.mix] == ["auto", "auto"]


# Weights


def test_a_weight_is_a_step_that_reads_nothing_and_that_the_next_run_shares(app, data, silent, read):
    data.read_all([A, B])
    read()
    data.use()
    assert data.mix.setData(data.mix.index(1, WEIGHT), 2.5, Qt.ItemDataRole.EditRole)

    assert silent.asked(reading.ImportData) == []
    assert (listed(data, WEIGHT), listed(data, 4)) == (["1", "2.5"], ["6", "10"])
    assert [part.weight for part in app.draft.config.data.mix] == [1.0, 2.5]
    assert data.undo()
    assert [part.weight for part in app.draft.config.data.mix] == [1.0, 1.0]
    assert data.redo()
    assert listed(data, WEIGHT) == ["1", "2.5"]


@pytest.mark.parametrize("weight", [0.0, -1.0, 100.5])
def test_a_weight_beyond_its_limits_is_not_taken(data, read, weight):
    data.read_all([A, B])
    read()

    assert not data.mix.setData(data.mix.index(1, WEIGHT), weight, Qt.ItemDataRole.EditRole)
    assert listed(data, WEIGHT) == ["1", "1"]


def test_weights_can_not_be_edited_while_rows_are_read(data, read):
    data.read_all([A, B])
    read()
    cell = data.mix.index(0, WEIGHT)
    assert data.mix.flags(cell) & Qt.ItemFlag.ItemIsEditable

    data.read_again()
    assert not data.mix.flags(cell) & Qt.ItemFlag.ItemIsEditable


def test_rows_that_a_weight_leaves_out_are_not_counted_for_training(app, data, read):
    app.draft.set("data.validation", 0.0)
    data.read_all([A, B])
    read()
    data.weigh(1, 0.5)
    assert data.split() == (8, 0)
    data.weigh(1, 3.0)
    assert data.split() == (10, 0)


# Fixes and findings


def of_rows(**fields):
    return msgspec.structs.replace(TWICE, **fields)


def test_one_data_set_of_a_mixture_is_mended_alone_and_that_is_undone(data, silent, read):
    data.read_all([A, B])
    read()
    silent.answer(
        reading.Diagnose, reading.Diagnosed, rows=10, findings=(of_rows(rows=(7,), groups=((6, 7),)),)
    )
    data.fix_set("near_duplicates")
    assert not silent.asked(reading.ImportData)  # both rows are of the other one

    data.choose_part(1)
    data.fix_set("near_duplicates")
    read()
    assert [part.recipe for part in data.data.mix] == [(), (COPIES,)]
    assert data.data.recipe == ()
    assert data.undo()
    read()
    assert [part.recipe for part in data.data.mix] == [(), ()]


@pytest.mark.parametrize(
    ("finding", "within"),
    [
        (of_rows(rows=(5,), groups=((1, 5),)), True),
        (of_rows(rows=(7,), groups=((1, 7),)), False),
        (of_rows(rows=(3, 8)), True),
        (of_rows(rows=(8,)), False),
        (of_rows(rows=(3,), kind="equal_across_sets"), False),
    ],
    ids=["two copies in it", "one of them elsewhere", "a row of it", "rows of another", "equal across sets"],
)
def test_a_fix_of_one_data_set_is_offered_where_it_mends_something_there(finding, within):
    assert lies_within(finding, range(6)) is within


def test_a_fix_of_one_data_set_is_undone_by_itself(app, data, read):
    data.look_away()
    mix = (MixPart(path=A, recipe=(COPIES,)), MixPart(path=B, recipe=(COPIES,)))
    app.draft.set_many({"data.path": "", "data.mix": mix, "data.recipe": (Fix(kind="refusals"),)})
    data.look()
    read()
    assert [(fix.part, fix.place) for fix in data.fixes()] == [(0, 0), (1, 0), (None, 0)]

    data.undo_fix(data.fixes()[1])
    read()
    assert [part.recipe for part in data.data.mix] == [(COPIES,), ()]
    assert data.data.recipe == (Fix(kind="refusals"),)


def test_findings_of_one_kind_in_two_data_sets_lead_to_their_own_rows(data, read):
    found = [
        Finding(kind="special_tokens", tone="info", count=1, words=f"{name}: 1 text", why="Text.", rows=(at,))
        for name, at in (("support.jsonl", 2), ("sums.csv", 7))
    ]
    data.read_all([A, B])
    read(findings=tuple(found))
    rows = {}
    for key in data.findings():
        data.show(key)
        rows[key] = [data.table.row_at(place) for place in range(data.table.rowCount())]

    assert rows == {"special_tokens": [2], "special_tokens_2": [7]}


def test_the_rows_of_one_data_set_are_listed(data, read):
    data.read_all([A, B])
    read()
    data.show("set:1")

    assert [data.table.row_at(place) for place in range(data.table.rowCount())] == [6, 7, 8, 9]
    assert data.filter_words == "the 4 rows of sums.csv"
    assert data.set_of(5).name == "support.jsonl"
    assert data.set_of(6).name == "sums.csv"


def test_skipped_lines_name_their_file(data, read):
    problems = (SkipReason(3, "sums.csv: no answer", 2, (3, 9)),)
    data.read_all([A, B])
    read(problems=problems, skipped=3)

    assert data.skipped_text() == "line 3 of sums.csv: no answer\nline 9 of sums.csv: no answer\nand 1 more\n"


def test_only_rows_of_text_are_split_where_they_are_too_long(app, data, read, qtbot):
    app.draft.set("data.seq_len", 100)
    data.read_all([A, C])
    read()
    qtbot.wait(80)
    data.table.set_lengths(np.array([(300, 20)] * 8, dtype=np.int32))

    assert list(data.table.long_rows()) == [0, 1, 2, 3, 4, 5]
    assert data.table.flag(5) == ("dropped", "bad")
    assert data.table.flag(6) == ("", "")


# What it costs, and what it is called


def test_updates_are_counted_by_weight():
    lengths = np.array([(100, 50)] * 10, dtype=np.int32)
    config = with_changes(
        RunConfig(),
        {"data.packing": False, "data.validation": 0.0, "training.batch_size": 1,
         "training.gradient_accumulation": 1},
    )  # fmt: skip
    rows = (Stretch(0, 6, weight=2.0), Stretch(6, 10, weight=0.5))

    kept = kept_rows(lengths, config.data, rows)
    assert (kept.rows, kept.seen, kept.tokens) == (10, 14.0, 1_400)
    assert updates(config, kept) == 14
    assert updates(config, kept_rows(lengths, config.data)) == 10


def test_longer_texts_are_not_dropped_but_split():
    lengths = np.array([(100, 100), (5_000, 5_000)], dtype=np.int32)
    report = import_report(C, format="text", conversations=2)

    kept = kept_rows(lengths, DataConfig(seq_len=2_048), stretches(report))
    assert (kept.rows, kept.longer, kept.seen, kept.tokens) == (2, 0, 4.0, 5_100)


@pytest.mark.parametrize(
    ("paths", "name", "run"),
    [
        ([A], "support.jsonl", "support-tiny"),
        ([SAMPLE, B], "Sample data + sums.csv", "sample-sums-tiny"),
        ([A, B, C], "support.jsonl + 2 more", "support-and-2-more-tiny"),
    ],
)
def test_a_mixture_and_its_runs_are_named_after_its_files(app, data, read, paths, name, run):
    data.read_all(paths)
    read()
    data.use()

    assert data_name(data.data) == name
    assert app.train.name == run
