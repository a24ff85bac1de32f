"""The Data page's memory: a file on its way to rows, which of them are listed, and the one that is shown."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QModelIndex, Qt

from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.report import Finding, SkipReason
from qlora_studio.data.token_view import Lengths, Token
from qlora_studio.protocol import reading
from qlora_studio.state.named_rows import NamedRows
from tests.state.reports import import_report

REPORT = import_report(
    rows_in=6,
    imported=5,
    merged=1,
    conversations=5,
    format="question_answer",
    findings=(
        Finding(kind="duplicates", tone="info", count=1, words="1 equal row", why="Twice.", rows=(3,)),
        Finding(kind="empty_answer", tone="warn", count=1, words="1 empty answer", why="Silence.", rows=(2,)),
    ),
    columns=("question", "answer"),
    map={"prompt": "question", "answer": "answer"},
)


def row(index: int, text: str = "") -> Row:
    words = text or f"question {index}"
    return Row(row=index, line=index + 1, messages=(Message("user", words), Message("assistant", "answer")))


@pytest.fixture
def imported(data, silent):
    """After a file was read, before anything else was answered."""

    def read(report=REPORT, path="/data/chats.jsonl"):
        data.read(path)
        silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=report)

    return read


@pytest.fixture
def counted(imported, silent, tmp_path):
    """After its tokens were counted too."""

    def count(lengths, report=REPORT):
        imported(report)
        file = tmp_path / "lengths.npy"
        np.save(file, np.array(lengths, dtype=np.int32))
        found = Lengths(
            file=str(file), rows=len(lengths), tokens=1, learned_tokens=1, longest=1, median=1,
            nothing_to_learn=sum(learned == 0 for _, learned in lengths), template_sha256="",
        )  # fmt: skip
        silent.answer(
            reading.CountTokens, reading.TokensCounted, lengths=found, too_long=0, bins=(1,), bin_width=16
        )

    return count


LENGTHS = [(10, 4), (300, 20), (30, 0), (0, 0), (50, 9)]


def cells(table, column):
    return [table.data(table.index(place, column)) for place in range(table.rowCount())]


# A file on its way to rows


def test_a_file_that_was_read_is_shown_and_counted(data, imported, silent):
    imported()

    assert (data.name, data.report, data.table.rowCount()) == ("chats.jsonl", REPORT, 5)
    assert [asked.model for asked in silent.asked(reading.CountTokens)] == ["/models/tiny"]
    assert [asked.row for asked in silent.asked(reading.ShowTokens)] == [0]


def test_what_is_shown_stays_until_the_new_rows_are_there(data, imported):
    imported()
    data.read("/data/other.csv")

    assert (data.file.busy, data.name, data.table.rowCount()) == (True, "chats.jsonl", 5)


def test_stop_ends_the_process_that_reads(data, silent):  # D1
    data.read("/data/large.jsonl")
    (asked,) = silent.asked(reading.ImportData)
    data.file.stop()

    assert not data.file.busy
    assert any(asked.id in reader.given_up for reader in silent.readers)


def test_how_far_the_reading_is_is_told_in_words(data, silent):
    data.read("/data/large.jsonl")
    silent.tell_progress(reading.ImportData, 25, 100, "120,400 rows read")

    assert data.file.words == "Reading large.jsonl: 120,400 rows read"
    assert data.file.share == 0.25


def test_a_refused_file_leaves_the_rows_and_tells_its_columns(data, imported, silent):
    imported()
    data.read("/data/german.csv")
    silent.refuse(reading.ImportData, "german.csv: no column says which text is the prompt.", "Choose.")
    silent.answer(reading.ShowColumns, reading.ColumnsShown, columns=("frage", "antwort"), records=("{}",))

    assert data.file.problem.message.startswith("german.csv")
    assert data.file.columns == ("frage", "antwort")
    assert data.name == "chats.jsonl"


def test_columns_are_chosen_for_the_file_that_was_refused(data, imported, silent):
    imported()
    data.read("/data/german.csv")
    silent.refuse(reading.ImportData, "No.")
    data.read_columns({"prompt": "frage", "answer": "antwort"})

    (asked,) = silent.asked(reading.ImportData)
    assert (asked.data.path, asked.data.map["answer"]) == ("/data/german.csv", "antwort")


def test_a_count_stands_in_no_files_way_and_goes_on_where_it_was_refused(data, imported, silent, qtbot):
    imported()
    data.read("/data/broken.json")
    assert silent.asked(reading.CountTokens) == []

    silent.refuse(reading.ImportData, "broken.json ends in the middle.")
    qtbot.waitUntil(lambda: len(silent.asked(reading.CountTokens)) == 1)


def test_imported_files_are_remembered_newest_first(app, data, imported):
    for path in ("/data/a.jsonl", "/data/b.jsonl", SAMPLE, "/data/a.jsonl"):
        imported(path=path)

    assert app.preferences.values.data == ["/data/a.jsonl", "/data/b.jsonl"]


def test_use_tells_the_draft_all_that_it_takes_to_read_the_file_again(app, data, silent):
    data.read("/data/german.csv", columns={"prompt": "frage", "answer": "antwort"})
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
    data.use()

    drafted = app.draft.config.data
    assert (drafted.path, drafted.map) == ("/data/german.csv", {"prompt": "frage", "answer": "antwort"})


def test_a_file_that_train_names_is_read_when_the_page_opens(app, data, silent):
    data.look_away()
    app.draft.set("data.path", "/data/elsewhere.jsonl")
    data.look()

    assert [asked.data.path for asked in silent.asked(reading.ImportData)] == ["/data/elsewhere.jsonl"]


def test_more_than_one_percent_skipped_is_asked_about_once_for_data_and_train(app, data, imported):  # D3
    imported(msgspec.structs.replace(REPORT, rows_in=106, skipped=100))
    assert data.asks_about_skipped

    data.accept_skipped()
    app.train.data = data.report

    assert not data.asks_about_skipped
    assert app.train.skipped_accepted


def test_skipped_lines_are_listed_with_their_reasons_and_nothing_is_left_unsaid(data, imported, tmp_path):
    problems = (SkipReason(3, "no answer", 2, (3, 9)), SkipReason(5, "not valid JSON", 2, (5,)))
    imported(msgspec.structs.replace(REPORT, rows_in=10, skipped=4, problems=problems))

    assert data.save_skipped(tmp_path / "skipped.txt") == ""
    assert (tmp_path / "skipped.txt").read_text() == (
        "line 3: no answer\nline 5: not valid JSON\nline 9: no answer\nand 1 more\n"
    )
    assert "could not be written" in data.save_skipped(tmp_path / "missing" / "skipped.txt")


def test_the_doctor_reads_other_files_as_the_rows_on_the_screen_were_read(app, data, silent):
    app.draft.set_many({"data.encoding": "big5", "data.map": {"text": "old"}, "data.validation": "/held.csv"})
    data.read("/data/german.csv", "question_answer", {"prompt": "frage"}, "windows-1252")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)

    (asked,) = silent.asked(reading.Diagnose)
    assert (asked.data.format, asked.data.encoding) == ("question_answer", "windows-1252")
    assert (asked.data.map, asked.data.validation) == ({"prompt": "frage"}, "/held.csv")


def test_a_fix_whose_test_file_lost_its_encoding_is_no_fault_of_the_data(data, silent):
    data.read("/data/rows.jsonl")
    silent.refuse(reading.ImportData, "t.csv: no UTF-8.", "--x", likely_encoding="big5", beside="/t.csv")

    assert data.file.likely_encoding == ""
    assert data.file.problem.message == "t.csv: no UTF-8."
    assert data.file.problem.hint.startswith("Undo the fix that leaves its rows out")


# Which rows are listed


def test_the_table_keeps_the_rules_of_a_model(data, counted, qtmodeltester):
    counted(LENGTHS)
    qtmodeltester.check(data.table, force_py=True)


def test_flags_say_the_gravest_of_each_row(app, data, counted, qtbot):
    app.draft.set("data.seq_len", 100)
    counted(LENGTHS)
    qtbot.waitUntil(lambda: cells(data.table, 3)[1] == "dropped")

    assert cells(data.table, 3) == ["", "dropped", "nothing", "refused", ""]
    app.draft.set("data.too_long", "truncate")
    qtbot.waitUntil(lambda: cells(data.table, 3)[1] == "cut")


def test_rows_of_text_lose_nothing_by_the_limit(app, data, counted, qtbot):
    app.draft.set("data.seq_len", 100)
    counted(LENGTHS, msgspec.structs.replace(REPORT, format="text"))
    qtbot.wait(80)

    assert cells(data.table, 3)[1] == ""
    assert len(data.table.long_rows()) == 0


def test_filters_list_the_rows_they_name(app, data, counted, qtbot):
    app.draft.set("data.seq_len", 100)
    counted(LENGTHS)
    qtbot.waitUntil(lambda: len(data.table.long_rows()) == 1)

    listed = {}
    for name in ("all", "flagged", "long", "nothing", "duplicates"):
        data.show(name)
        listed[name] = cells(data.table, 0)

    assert listed == {
        "all": ["1", "2", "3", "4", "5"],
        "flagged": ["3", "4"],
        "long": ["2"],
        "nothing": ["3", "4"],
        "duplicates": ["4"],
    }


def test_a_search_is_read_in_pages_as_they_are_looked_at(data, imported, silent, qtbot):
    imported(msgspec.structs.replace(REPORT, rows_in=1_000_000, imported=999_999, conversations=999_999))
    while silent.asked(reading.ShowRows):
        silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(0),), total=999_999)
    data.search("battery")
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowRows)) == 1)
    silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(7), row(70)), total=5_000)

    assert data.table.rowCount() == 5_000
    assert cells_at(data.table, 0, 1, 4_321) == ["8", "71", "…"]
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowRows)) == 1)
    (asked,) = silent.asked(reading.ShowRows)
    assert (asked.start, asked.search) == (4_300, "battery")


def cells_at(table, *places):
    return [table.data(table.index(place, 0)) for place in places]


def test_a_page_that_came_short_is_asked_for_from_where_it_ended(data, imported, silent, qtbot):
    imported()
    while silent.asked(reading.ShowRows):
        silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(0),), total=5)
    data.search("long")
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowRows)) == 1)
    silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(1),), total=3)
    cells_at(data.table, 1)
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowRows)) == 1)

    assert silent.asked(reading.ShowRows)[0].start == 1


def test_without_a_model_the_list_shows_how_rows_begin(app, silent, qtbot):
    app.draft.set("model.path", "")
    app.data.look()
    app.data.read("/data/chats.jsonl")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
    while silent.asked(reading.ShowRows):
        silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(0),), total=5)

    table = app.data.table
    assert cells(table, 1) == ["…"] * 5
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowRows)) == 1)
    rows = (row(0), row(1, "\u202eevil\n<b>"), row(2), row(3), row(4))
    silent.answer(reading.ShowRows, reading.RowsShown, rows=rows, total=5)
    assert cells(table, 1)[:2] == ["question 0", "<U+202E>evil <b>"]
    assert table.headerData(1, Qt.Orientation.Horizontal) == "Begins with"
    assert table.columnCount(QModelIndex()) == 2


def test_training_and_evaluation_are_told_apart_before_the_start(app, data, counted, qtbot):
    app.draft.set_many({"data.seq_len": 100, "data.validation": 0.2})
    counted(LENGTHS)
    qtbot.wait(80)

    assert data.split() == (2, 0)  # of 5 rows one is too long, two teach nothing
    app.draft.set("data.too_long", "truncate")
    assert data.split() == (2, 1)


# The row that is shown


def test_whoever_holds_an_arrow_key_down_waits_for_the_last_row_only(data, imported, silent):
    imported()
    for place in range(1, 5):
        data.choose(place)
    assert [asked.row for asked in silent.asked(reading.ShowTokens)] == [0]

    answer_row(silent, 0)

    assert [asked.row for asked in silent.asked(reading.ShowTokens)] == [4]
    assert data.row.tokens is None
    answer_row(silent, 4)
    assert data.row.tokens.row == 4


def answer_row(silent, index, total=2):
    """Both questions about a row; the first rows of a new file were asked for in between."""
    for asked in silent.asked(reading.ShowRows):
        rows = tuple(row(at) for at in range(asked.start, asked.start + asked.count))
        silent.answer(reading.ShowRows, reading.RowsShown, rows=rows, total=5)
    tokens = (Token("hi", 1, "context", "user"), Token("!", 2, "learned", "assistant"))
    silent.answer(reading.ShowTokens, reading.TokensShown, row=index, tokens=tokens, text="hi!", total=total)


def test_another_limit_shows_the_row_anew(app, data, imported, silent, qtbot):
    imported()
    answer_row(silent, 0)
    app.draft.set("data.seq_len", 64)
    qtbot.waitUntil(lambda: len(silent.asked(reading.ShowTokens)) == 1)

    assert silent.asked(reading.ShowTokens)[0].data.seq_len == 64


def test_a_long_row_is_turned_page_by_page(data, imported, silent):
    imported()
    answer_row(silent, 0, total=4_500)

    assert data.row.turn_page(1)
    assert silent.asked(reading.ShowTokens)[0].start == 2_000
    answer_row(silent, 0, total=4_500)
    data.row.turn_page(1)
    answer_row(silent, 0, total=4_500)
    assert not data.row.turn_page(1)


def test_a_row_that_the_template_refuses_says_why_and_keeps_its_text(data, imported, silent):
    imported()
    silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(0),), total=5)
    silent.refuse(reading.ShowTokens, "Line 1: roles must alternate.")

    assert data.row.problem.message == "Line 1: roles must alternate."
    assert data.row.shown.messages[0].content == "question 0"


def test_the_sample_model_is_offered_before_it_is_unpacked(app, data, imported):
    app.draft.set("model.path", SAMPLE)
    imported()

    assert data.sample_waits
    assert data.model == ""
    data.unpack_sample()
    assert data.unpacking


# Rows that another page names -------------------------------------------------------------------------


def named(path="/data/chats.jsonl", sha256=""):
    return NamedRows(DataConfig(path=path), (3, 1, 99), "the 3 rows of step 7 of a run", sha256)


def test_rows_that_a_run_names_are_listed_and_the_first_is_shown(data, imported):
    imported()
    data.show_named(named())
    assert [data.table.row_at(place) for place in range(data.table.rowCount())] == [3, 1]  # there is no 99
    assert (data.row.row, data.filter_words) == (3, "the 3 rows of step 7 of a run")
    data.show("all")
    assert (data.table.rowCount(), data.filter_words) == (5, "")


def test_the_data_of_the_run_is_read_first_where_another_is_shown_and_the_draft_stays(data, imported, silent):
    imported()
    drafted = data._draft.config.data
    data.show_named(named("/data/of_the_run.jsonl"))
    assert silent.asked(reading.ImportData)[-1].data.path == "/data/of_the_run.jsonl"
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/other", report=REPORT)
    assert (data.table.rowCount(), data.filter) == (2, "named")
    assert data._draft.config.data == drafted


def test_rows_of_data_that_changed_since_are_said_to_be_perhaps_others(data, imported):
    imported()
    data.show_named(named(sha256="another"))
    assert "The data has changed since" in data.filter_words
    data.show_named(named(sha256=REPORT.sha256))
    assert "changed" not in data.filter_words
