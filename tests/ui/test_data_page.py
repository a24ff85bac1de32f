"""The Data page as a person uses it: import, read, filter, and go on to training."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtWidgets import QApplication, QLabel, QMenu, QStyleOptionViewItem, QTableView, QWidget

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.formats import READ
from qlora_studio.data.report import Finding, FixCount, SkipReason
from qlora_studio.data.token_view import Lengths, Token
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.ui.pages.data import DataPage
from qlora_studio.ui.pages.data_tokens import TokenView, drawn, lay_out
from qlora_studio.ui.theme import theme
from tests.state.reports import import_report

REPORT = import_report(
    rows_in=8,
    imported=5,
    skipped=2,
    merged=1,
    conversations=5,
    format="question_answer",
    problems=(SkipReason(3, "no answer", 2, (3, 9)),),
    findings=(
        Finding(kind="skipped", tone="bad", count=2, words="2 of 8 rows skipped", why="Not learned."),
        Finding(kind="empty_answer", tone="warn", count=1, words="1 row has an empty answer", why="Silence.",
                rows=(2,)),
    ),
    columns=("question", "answer", "source"),
    map={"prompt": "question", "answer": "answer"},
)  # fmt: skip
LENGTHS = [(10, 4), (3000, 20), (30, 0), (40, 8), (50, 9)]
TOKENS = (
    Token("<|im_start|>", 1, "context", "user", special=True),
    Token("user\n", 2, "context", "user"),
    Token("Hi\u202e", 3, "context", "user"),
    Token("<|im_start|>", 1, "context", "assistant", special=True),
    Token("Thanks", 5, "learned", "assistant"),
    Token(" pack", 3854, "cut", "assistant"),
)


@pytest.fixture
def app(app):
    app.draft.set("model.path", "/models/tiny")
    return app


@pytest.fixture
def page(app, qtbot):
    page = DataPage(app).whole()
    qtbot.addWidget(page)
    page.resize(1440, 860)
    page.show()
    return page


@pytest.fixture
def shown(page, app, silent, tmp_path):
    """A file with five rows, counted, the first row on the screen."""

    def show(report=REPORT, tokens=TOKENS, lengths=LENGTHS):
        app.data.read("/data/chats.jsonl")
        silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=report)
        file = tmp_path / "lengths.npy"
        np.save(file, np.array(lengths, dtype=np.int32))
        found = Lengths(
            file=str(file), rows=5, tokens=1, learned_tokens=1, longest=3000, median=40, nothing_to_learn=1,
            template_sha256="",
        )  # fmt: skip
        silent.answer(
            reading.CountTokens, reading.TokensCounted, lengths=found, too_long=1, bins=(4, 1), bin_width=2048
        )
        answer_row(silent, tokens)

    return show


@pytest.mark.parametrize("tokens", [40_034, 400_034, 4_400_034])
def test_a_long_rows_number_of_tokens_is_whole(page, shown, tokens):
    shown(lengths=[(tokens, 20), *LENGTHS[1:]])
    table = page.findChild(QTableView, "data_rows")
    option = QStyleOptionViewItem()
    table.initViewItemOption(option)
    needed = table.itemDelegate().sizeHint(option, table.model().index(0, 1)).width()
    assert table.columnWidth(1) >= needed


def answer_row(silent, tokens=TOKENS, total=0):
    asked_row = silent.asked(reading.ShowTokens)[0].row if silent.asked(reading.ShowTokens) else 0
    while silent.asked(reading.ShowRows):
        asked = silent.asked(reading.ShowRows)[0]
        rows = tuple(row(at) for at in range(asked.start, min(asked.start + asked.count, 5)))
        silent.answer(reading.ShowRows, reading.RowsShown, rows=rows, total=5)
    if silent.asked(reading.ShowTokens):
        fields = {"row": asked_row, "tokens": tokens, "text": "", "total": total or len(tokens)}
        silent.answer(reading.ShowTokens, reading.TokensShown, **fields)


def row(index):
    messages = (Message("user", f"<b>question</b> {index}"), Message("assistant", "answer"))
    return Row(row=index, line=index + 1, messages=messages, source=f'{{"question": "{index}"}}')


def find(page, name) -> QWidget:
    found: list[QWidget] = []
    deadline = time.monotonic() + 5
    while len(found) != 1 and time.monotonic() < deadline:  # what was just made is shown a moment later
        QApplication.processEvents()
        found = [widget for widget in page.findChildren(QWidget, name) if widget.isVisibleTo(page)]
    (only,) = found
    return only


def words(widget) -> str:
    return " | ".join(label.text() for label in widget.findChildren(QLabel) if label.isVisibleTo(widget))


# Empty, loading, error


def test_an_empty_page_offers_a_file_the_sample_and_what_was_imported_before(app, qtbot, silent):
    app.preferences.set("data", ["/data/new.jsonl", "/data/old.csv"])
    page = DataPage(app).whole()
    qtbot.addWidget(page)
    page.show()

    assert find(page, "data_import_first").isEnabled()
    assert "new.jsonl" in words(find(page, "data_recent_0"))
    qtbot.mouseClick(find(page, "data_use_sample"), Qt.MouseButton.LeftButton)
    assert [asked.data.path for asked in silent.asked(reading.ImportData)] == [SAMPLE]


def test_a_dropped_file_is_read_at_once(page, silent, tmp_path):
    page.opened(tmp_path / "dropped.jsonl")

    (asked,) = silent.asked(reading.ImportData)
    assert asked.data.path == str(tmp_path / "dropped.jsonl")


def test_reading_tells_its_count_and_can_be_stopped(page, app, silent, qtbot):  # D1
    app.data.read("/data/large.jsonl")
    silent.tell_progress(reading.ImportData, 1, 4, "120,400 rows read")

    assert find(page, "data_reading_words").text() == "Reading large.jsonl: 120,400 rows read"
    qtbot.mouseClick(find(page, "data_stop"), Qt.MouseButton.LeftButton)
    assert silent.asked(reading.ImportData) == []
    assert find(page, "data_empty")


def test_an_unreadable_file_is_one_paragraph(page, app, silent):
    app.data.read("/data/latin.jsonl")
    silent.refuse(reading.ImportData, "latin.jsonl: line 51 is not UTF-8.", "Save it again as UTF-8.")

    assert "latin.jsonl: line 51 is not UTF-8. Save it again as UTF-8." in words(find(page, "data_problem"))


def refuse_as_no_utf_8(silent, likely):
    """As the reader does."""
    reader, asked = silent._taken(reading.ImportData)
    problem = Problem("latin.jsonl: line 1,204 is not UTF-8.", "(--encoding)")
    reader.heard.emit(reading.Refused(id=asked.id, error=problem, likely_encoding=likely))


def test_a_file_in_another_encoding_is_read_once_it_is_chosen(page, app, silent, qtbot):  # D5
    app.data.read("/data/latin.jsonl")
    refuse_as_no_utf_8(silent, "koi8-r")

    assert words(find(page, "data_problem")).endswith(
        "latin.jsonl: line 1,204 is not UTF-8. If it was saved by an older program, choose its encoding."
    )
    assert find(page, "data_encoding_pick").value() == "koi8-r"
    choose(find(page, "data_encoding_pick"), "windows-1251")
    app.data.changed.emit()  # whatever else is told meanwhile
    qtbot.mouseClick(find(page, "data_encoding_pick_read"), Qt.MouseButton.LeftButton)
    (asked,) = silent.asked(reading.ImportData)
    assert (asked.data.path, asked.data.encoding) == ("/data/latin.jsonl", "windows-1251")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
    app.data.use()
    assert app.draft.config.data.encoding == "windows-1251"


def test_the_encoding_is_chosen_beside_the_rows_of_another_file_too(page, app, silent, shown, qtbot):
    shown()
    app.data.read("/data/latin.jsonl")
    refuse_as_no_utf_8(silent, "windows-1252")

    qtbot.mouseClick(find(page, "data_encoding_here_read"), Qt.MouseButton.LeftButton)

    (asked,) = silent.asked(reading.ImportData)
    assert asked.data.encoding == "windows-1252"


def test_another_file_is_read_by_its_content_again(page, app, silent):
    app.data.read("/data/latin.jsonl")
    refuse_as_no_utf_8(silent, "koi8-r")
    app.data.read_encoded("koi8-r")

    app.data.read("/data/chats.jsonl")

    assert silent.asked(reading.ImportData)[0].data.encoding == "auto"
    assert not app.data.file.likely_encoding


def test_columns_that_nobody_could_guess_are_chosen_by_hand(page, app, silent, qtbot):
    app.data.read("/data/german.csv")
    silent.refuse(reading.ImportData, "no column says which text is the prompt.")
    names, records = ("frage", "antwort"), ('{"frage": "Was?"}',)
    silent.answer(reading.ShowColumns, reading.ColumnsShown, columns=names, records=records)

    qtbot.mouseClick(find(page, "data_mend_columns"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: '{"frage": "Was?"}' in words(find(page, "data_columns")))
    choose(find(page, "data_column_prompt"), "frage")
    assert silent.asked(reading.ImportData) == []
    choose(find(page, "data_column_answer"), "antwort")
    (asked,) = silent.asked(reading.ImportData)
    assert asked.data.map == {"prompt": "frage", "answer": "antwort"}
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
    assert find(page, "data_columns")


def choose(box, value):
    """As a person picks from the list."""
    box.setCurrentIndex(box.findData(value))
    box.activated.emit(box.currentIndex())


# What was counted


def test_the_equation_adds_up_on_the_screen(page, shown):  # D3
    shown()
    numbers = [
        int(find(page, name).findChildren(QLabel)[0].text().replace(",", ""))
        for name in ("data_rows_in", "data_imported", "data_skipped_count", "data_merged")
    ]
    assert numbers[0] == sum(numbers[1:]) == 8


def test_skipped_rows_open_with_lines_and_reasons_and_can_be_copied(page, shown, qtbot):
    shown()
    qtbot.mouseClick(find(page, "data_skipped_count"), Qt.MouseButton.LeftButton)
    table = find(page, "data_skipped_reasons").model()

    assert [table.data(table.index(0, column)) for column in range(3)] == ["2", "no answer", "3, 9"]
    qtbot.mouseClick(find(page, "data_copy_skipped"), Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == "line 3: no answer\nline 9: no answer\n"
    page.escape()
    assert not page.findChild(QWidget, "data_skipped").isVisible()


def test_many_skipped_rows_are_asked_about_in_place(page, app, shown, qtbot):  # D3
    shown()

    assert "2 of 8 rows (25\u202f%) skipped: no answer (2). First: line 3." in page.banner.text()
    qtbot.mouseClick(find(page, "data_ask_accept"), Qt.MouseButton.LeftButton)
    assert not page.banner.isVisible()


def test_the_format_chip_reads_the_file_anew(page, shown, silent):
    shown()
    menu = page.findChild(QMenu, "data_formats")
    next(action for action in menu.actions() if action.data() == "text").trigger()

    (asked,) = silent.asked(reading.ImportData)
    assert (asked.data.format, asked.data.path) == ("text", "/data/chats.jsonl")


def test_a_guessed_column_says_so_and_another_one_is_a_click_away(page, shown, silent, qtbot):
    shown()
    qtbot.mouseClick(find(page, "data_columns_open"), Qt.MouseButton.LeftButton)
    box = find(page, "data_column_prompt")

    assert box.currentText() == "question (guessed)"
    choose(box, "source")
    (asked,) = silent.asked(reading.ImportData)
    assert asked.data.map == {"prompt": "source", "answer": "answer"}


def test_a_guess_leads_to_the_columns(page, shown, qtbot):
    guess = Finding(kind="guess", tone="warn", count=1, words="The column 'source' holds text", why="Look.")
    shown(msgspec.structs.replace(REPORT, findings=(guess,)))
    for _ in range(2):  # the second time they stay
        qtbot.mouseClick(find(page, "data_columns_guess"), Qt.MouseButton.LeftButton)

        assert find(page, "data_column_prompt").currentText() == "question (guessed)"


# Rows


def test_flags_and_filters_lead_to_the_rows(page, shown, qtbot):
    shown()
    table = find(page, "data_rows").model()
    assert [table.data(table.index(at, 3)) for at in range(5)] == ["", "dropped", "nothing", "", ""]

    qtbot.mouseClick(find(page, "data_filter_long"), Qt.MouseButton.LeftButton)
    assert [table.data(table.index(at, 0)) for at in range(table.rowCount())] == ["2"]
    qtbot.mouseClick(find(page, "data_show_empty_answer"), Qt.MouseButton.LeftButton)
    assert [table.data(table.index(at, 0)) for at in range(table.rowCount())] == ["3"]
    qtbot.mouseClick(find(page, "data_show_all"), Qt.MouseButton.LeftButton)
    assert table.rowCount() == 5


def test_a_search_is_typed_and_what_is_typed_stays(page, app, shown, silent, qtbot):
    shown()
    qtbot.keyClicks(find(page, "data_search"), "battery")
    app.data.changed.emit()
    qtbot.waitUntil(lambda: any(asked.search == "battery" for asked in silent.asked(reading.ShowRows)))

    assert find(page, "data_search").text() == "battery"
    silent.answer(reading.ShowRows, reading.RowsShown, rows=(row(3),), total=1)
    assert "1 of 5 rows hold “battery”" in find(page, "data_place").text()


def test_arrows_and_buttons_go_from_row_to_row(page, app, shown, silent, qtbot):
    shown()
    qtbot.mouseClick(find(page, "data_next"), Qt.MouseButton.LeftButton)
    answer_row(silent)
    assert app.data.row.row == 1

    find(page, "data_rows").setFocus()
    qtbot.keyClick(find(page, "data_rows"), Qt.Key.Key_Down)
    answer_row(silent)
    assert app.data.row.row == 2


# The row


def test_the_foot_line_reads_the_token_under_the_cursor(page, shown, qtbot):
    shown()
    tokens = find(page, "data_tokens")
    for _ in range(5):
        qtbot.keyClick(tokens, Qt.Key.Key_Right)

    foot = words(find(page, "data_row"))
    assert "Token 6" in foot
    assert "“ pack”" in foot
    assert "id 3854 · not trained on · assistant" in foot


def test_token_ids_can_be_copied(page, shown, qtbot):
    shown()
    qtbot.mouseClick(find(page, "data_copy_ids"), Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == "1, 2, 3, 1, 5, 3854"


def test_page_down_goes_through_a_long_row(page, app, shown, silent, qtbot):
    many = tuple(Token(f" word{i}", i, "learned", "assistant") for i in range(2000))
    shown(tokens=many)
    answer_row(silent)
    app.data.row.tokens = msgspec.structs.replace(app.data.row.tokens, total=4_000)
    page._row.refresh()
    bar = find(page, "data_tokens").verticalScrollBar()
    bar.setValue(bar.maximum())
    find(page, "data_tokens").setFocus()
    qtbot.keyClick(find(page, "data_tokens"), Qt.Key.Key_PageDown)

    assert [asked.start for asked in silent.asked(reading.ShowTokens)] == [2_000]


def test_text_and_source_are_shown_as_they_are(page, shown, qtbot):  # S8
    shown()
    qtbot.mouseClick(find(page, "data_view_text"), Qt.MouseButton.LeftButton)
    texts = find(page, "data_text").findChildren(QLabel)
    assert "<b>question</b> 0" in [label.text() for label in texts]
    assert {label.textFormat() for label in texts} == {Qt.TextFormat.PlainText}

    qtbot.mouseClick(find(page, "data_view_source"), Qt.MouseButton.LeftButton)
    assert find(page, "data_source").toPlainText() == '{"question": "0"}'


def test_without_a_model_the_text_can_be_read(page, app, shown, qtbot):
    app.draft.set("model.path", "")
    app.data.read("/data/chats.jsonl")
    shown_without_model(app, qtbot)

    assert "Pick a model to see tokens" in words(find(page, "data_no_tokens"))


def shown_without_model(app, qtbot):
    silent_reader = next(reader for reader in _readers(app) if reader.asked)
    asked = silent_reader.asked.pop(0)
    silent_reader.heard.emit(reading.DataImported(id=asked.id, dataset="/cache/set", report=REPORT))
    qtbot.wait(80)


def _readers(app):
    return [app.reader._thread, app.chat_reader._thread]


def test_the_sample_model_is_unpacked_on_request(page, app, silent, qtbot):
    app.draft.set("model.path", SAMPLE)
    app.data.read(SAMPLE)
    shown_without_model(app, qtbot)
    qtbot.mouseClick(find(page, "data_unpack_sample"), Qt.MouseButton.LeftButton)

    assert app.sample_model.making
    assert "Unpacking the sample model, once" in words(find(page, "data_no_tokens"))


# How tokens are drawn


def test_tokens_stand_in_lines_that_end_where_the_text_does(qtbot):
    theme()
    lines = list(lay_out(TOKENS, lambda text: 10.0 * len(text), room=200))

    assert [[cell.token for cell in line.cells] for line in lines] == [[0, 1], [2], [3, 4], [5]]
    assert [line.role for line in lines] == ["user", "", "assistant", ""]
    assert all(cell.x + cell.width <= 200 for line in lines for cell in line.cells)


def test_a_token_longer_than_a_line_is_drawn_in_pieces(qtbot):
    theme()
    lines = list(lay_out([Token("x" * 100, 1, "learned")], lambda text: 10.0 * len(text), room=300))
    assert [cell.text for line in lines for cell in line.cells] == ["x" * 30, "x" * 30, "x" * 30, "x" * 10]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\n\n", "↵↵"),
        ("\tx", "⇥x"),
        ("a\u202eb", "a<U+202E>b"),
        ("\x07", "<U+0007>"),
        ("", "·"),
        ("<b>", "<b>"),
    ],
)
def test_what_can_not_be_seen_is_drawn_as_a_sign(text, seen):
    assert drawn(Token(text, 1, "context")) == seen


def test_a_click_finds_its_token(page, shown):
    shown()
    view = find(page, "data_tokens")
    line = view.lines()[2]
    cell = line.cells[1]
    point = QPointF(theme().px(78) + cell.x + 3, line.top + theme().px(12) - view.verticalScrollBar().value())

    assert view.token_at(point) == cell.token == 4


def test_fates_differ_by_more_than_colour(qtbot):
    pictures = {}
    for fate in ("learned", "context", "cut"):
        view = TokenView(name="data_tokens")
        qtbot.addWidget(view)
        view.resize(200, 40)
        view.show_tokens((Token("same", 1, fate), Token("x", 2, fate)))
        pictures[fate] = view.grab().toImage().convertToFormat(QImage.Format.Format_Grayscale8)

    assert len({bytes(picture.constBits()) for picture in pictures.values()}) == 3


# On to training


def test_the_limit_is_the_same_as_on_the_train_page(page, app, shown, qtbot):
    shown()
    app.draft.set("data.seq_len", 1024)
    qtbot.waitUntil(lambda: find(page, "data_seq_len").value() == 1024)

    histogram = find(page, "data_lengths")
    histogram.setFocus()
    qtbot.keyClick(histogram, Qt.Key.Key_Right)
    assert app.draft.value("data.seq_len") == 1088


def test_what_the_limit_costs_is_written_in_one_size(page, shown):
    shown()
    notes = [find(page, f"data_{name}") for name in ("lost", "updates", "half")]
    assert len({note.fontInfo().pixelSize() for note in notes}) == 1


def test_a_limit_that_can_not_stand_stays_as_it_was_typed(page, app, shown, qtbot):
    shown()
    field = find(page, "data_seq_len")
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, "7")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert (field.text(), app.draft.value("data.seq_len")) == ("7", 2_048)
    reason = find(page, "data_seq_len_problem")
    assert reason.text() == "data.seq_len is 7; it must be between 16 and 131,072."
    app.draft.set("data.seq_len", 1024)
    assert (field.text(), reason.isVisibleTo(page)) == ("1,024", False)


def test_use_for_training_names_the_file_and_opens_train(page, app, shown, qtbot):
    asked = []
    app.page_asked.connect(lambda name, what: asked.append(name))
    shown()
    qtbot.mouseClick(find(page, "data_use"), Qt.MouseButton.LeftButton)

    assert (app.draft.value("data.path"), asked) == ("/data/chats.jsonl", ["train"])


def test_the_keys_of_the_page_stand_in_its_menu(page):
    keys = {action.text(): action.shortcut().toString() for action in page.menu.actions()}
    assert keys["Import…"] == "Ctrl+O"
    assert keys["Next row"] == "Down"
    assert keys["Tokens: page down"] == "PgDown"


@pytest.mark.parametrize(("width", "size"), [(1024, 100), (1024, 200), (1440, 150)])
def test_nothing_runs_out_of_a_small_window(page, shown, qtbot, width, size):
    shown()
    theme().set_text_size(size)
    page.resize(width, 600)
    qtbot.waitUntil(lambda: page._content.width() <= page.width())
    least = page._content.minimumSizeHint().width()
    theme().set_text_size(100)
    assert least <= page.width()


# The doctor and its fixes

COPIES = Finding(
    kind="near_duplicates", tone="warn", count=2, words="2 rows are nearly equal to an earlier one",
    why="Learned harder.", rows=(1, 4), groups=((0, 4), (1, 3)), fix=Fix(kind="near_duplicates"),
    fix_words="Leave out 2 copies",
)  # fmt: skip
MENDED = msgspec.structs.replace(
    REPORT, conversations=3, fixes=(FixCount(Fix(kind="near_duplicates"), left_out=2),), findings=()
)


def diagnosed(silent, *findings):
    silent.answer(reading.Diagnose, reading.Diagnosed, rows=5, findings=findings)


def listed(page):
    table = find(page, "data_rows").model()
    return [table.data(table.index(at, 0)) for at in range(table.rowCount())]


def test_findings_come_while_the_rows_are_read_and_tell_how_far_they_are(page, shown, silent, qtbot):
    shown()
    assert find(page, "data_doctor_words").text() == "Looking for odd rows"
    silent.tell_progress(reading.Diagnose, 2, 5, "Comparing rows")
    assert find(page, "data_doctor_words").text() == "Comparing rows: 2 of 5"
    diagnosed(silent, COPIES)

    assert find(page, "data_to_decide").text() == "1 to decide"
    assert "2 rows are nearly equal to an earlier one | Learned harder." in words(find(page, "data_findings"))
    assert not page.findChild(QWidget, "data_doctor").isVisible()


def test_the_doctor_can_be_stopped_and_called_again(page, shown, silent, qtbot):
    shown()
    qtbot.mouseClick(find(page, "data_doctor_stop"), Qt.MouseButton.LeftButton)
    assert silent.asked(reading.Diagnose) == []
    assert find(page, "data_doctor_words").text() == "Not all was looked for yet."

    qtbot.mouseClick(find(page, "data_doctor_go"), Qt.MouseButton.LeftButton)
    silent.refuse(reading.Diagnose, "The reader ended.", "Look again.")
    assert find(page, "data_doctor_words").text() == "The reader ended. Look again."


def test_where_nothing_is_odd_nothing_is_to_decide(page, app, shown, silent):
    shown(report=msgspec.structs.replace(REPORT, findings=()))
    app.data.counts.counted = None
    diagnosed(silent)

    assert find(page, "data_to_decide").text() == "Nothing to decide"
    assert "Nothing odd was found | 5 rows were looked at" in words(find(page, "data_findings"))


def test_rows_that_belong_together_are_listed_together(page, shown, silent, qtbot):
    shown()
    diagnosed(silent, COPIES)
    qtbot.mouseClick(find(page, "data_show_near_duplicates"), Qt.MouseButton.LeftButton)
    table = find(page, "data_rows").model()

    assert listed(page) == ["1", "5", "2", "4"]
    assert [table.data(table.index(at, 3)) for at in range(4)] == ["group 1", "group 1", "group 2", "group 2"]


def test_a_fix_is_a_step_that_the_next_run_shares_and_that_can_be_undone(page, app, shown, silent, qtbot):
    shown()
    app.data.use()
    diagnosed(silent, COPIES)
    qtbot.mouseClick(find(page, "data_fix_near_duplicates"), Qt.MouseButton.LeftButton)
    (asked,) = silent.asked(reading.ImportData)
    assert asked.data.recipe == (Fix(kind="near_duplicates"),)
    assert not find(page, "data_fix_near_duplicates").isEnabled()

    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/mended", report=MENDED)
    assert app.draft.config.data.recipe == (Fix(kind="near_duplicates"),)
    assert find(page, "data_left_out").text() == "2"
    assert "2 copies were left out" in words(find(page, "data_findings"))
    assert page.undo()
    assert silent.asked(reading.ImportData)[0].data.recipe == ()
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
    assert app.draft.config.data.recipe == ()
    assert page.redo()
    assert silent.asked(reading.ImportData)[0].data.recipe == (Fix(kind="near_duplicates"),)


def test_each_fix_has_its_own_way_back(page, app, shown, silent, qtbot):
    shown()
    diagnosed(silent, COPIES)
    app.data.fix("near_duplicates")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/mended", report=MENDED)

    qtbot.mouseClick(find(page, "data_undo_0"), Qt.MouseButton.LeftButton)
    assert silent.asked(reading.ImportData)[0].data.recipe == ()


def test_a_fix_that_is_refused_or_stopped_leaves_the_rows_and_no_step(page, app, shown, silent):
    shown()
    diagnosed(silent, COPIES)
    app.data.fix("near_duplicates")
    silent.refuse(reading.ImportData, "The fixes leave no row of /data/chats.jsonl.")
    assert "The fixes leave no row" in page.banner.text()
    assert not app.data.steps.canUndo()

    app.data.fix("near_duplicates")
    assert page.undo()  # it is still on its way
    assert (silent.asked(reading.ImportData), app.data.steps.canUndo()) == ([], False)
    assert app.data.data.recipe == ()


def test_a_draft_with_other_data_is_left_alone_by_a_fix(page, app, shown, silent):
    shown()
    diagnosed(silent, COPIES)
    app.data.fix("near_duplicates")
    silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/mended", report=MENDED)

    assert (app.draft.config.data.path, app.draft.config.data.recipe) == (SAMPLE, ())
    app.data.use()
    assert app.draft.config.data.recipe == (Fix(kind="near_duplicates"),)


def test_a_test_file_is_compared_and_said_to_be_clean(page, app, shown, silent):
    shown()
    diagnosed(silent, COPIES)
    app.data.doctor.compare("/data/test.jsonl")
    (asked,) = silent.asked(reading.Diagnose)
    assert asked.test == "/data/test.jsonl"
    diagnosed(silent, COPIES)

    assert "No row of test.jsonl is among these" in words(find(page, "data_findings"))


def test_nothing_is_said_of_a_test_file_before_it_was_compared(page, app, shown, silent, qtbot):
    shown()
    diagnosed(silent, COPIES)
    app.data.doctor.compare("/data/test.jsonl")
    assert "test.jsonl" not in words(find(page, "data_findings"))
    assert find(page, "data_doctor_words").text() == "Looking for odd rows"
    silent.refuse(reading.Diagnose, *NOT_UTF_8)

    assert "No row of test.jsonl" not in words(find(page, "data_findings"))
    assert find(page, "data_doctor_words").text() == " ".join(NOT_UTF_8)
    assert find(page, "data_fix_near_duplicates").isVisible()  # what was found before still holds


NOT_UTF_8 = ("test.jsonl: line 1 is not UTF-8.", "Choose its own encoding: --test-encoding.")


def choose_beside(page, qtbot, encoding):
    choose(find(page, "data_encoding_beside"), encoding)
    qtbot.mouseClick(find(page, "data_encoding_beside_read"), Qt.MouseButton.LeftButton)


def test_a_test_file_that_is_not_utf_8_is_read_in_the_encoding_that_is_chosen(
    page, app, shown, silent, qtbot
):
    shown()
    app.data.doctor.compare("/data/test.jsonl")
    silent.refuse(reading.Diagnose, *NOT_UTF_8, likely_encoding="big5", beside="/data/test.jsonl")
    said = find(page, "data_doctor_words").text()
    assert (
        said == "test.jsonl: line 1 is not UTF-8. If it was saved by an older program, choose its encoding."
    )
    assert find(page, "data_encoding_beside").value() == "big5"

    choose_beside(page, qtbot, "gb18030")
    (asked,) = silent.asked(reading.Diagnose)
    assert (asked.test, asked.test_encoding) == ("/data/test.jsonl", "gb18030")
    diagnosed(silent, COPIES)
    assert "No row of test.jsonl is among these" in words(find(page, "data_findings"))


def test_the_encoding_of_a_held_out_file_goes_into_the_settings(page, app, shown, silent, qtbot):
    app.draft.set("data.validation", "/data/held.jsonl")
    shown()
    silent.refuse(reading.Diagnose, *NOT_UTF_8, likely_encoding="big5", beside="/data/held.jsonl")
    choose_beside(page, qtbot, "windows-1252")
    qtbot.waitUntil(lambda: bool(silent.asked(reading.Diagnose)))

    (asked,) = silent.asked(reading.Diagnose)
    assert (asked.data.validation_encoding, asked.test) == ("windows-1252", "")
    assert app.draft.value("data.validation_encoding") == "windows-1252"


def test_a_cleaned_copy_is_saved_and_told(page, app, shown, silent):
    shown()
    app.data.save_copy("/data/clean.jsonl")
    silent.tell_progress(reading.SaveCopy, 2, 5, "Writing rows")
    assert find(page, "data_saving").text() == "Saving the copy: 2 of 5 rows"
    silent.answer(reading.SaveCopy, reading.CopySaved, path="/data/clean.jsonl", rows=5, sha256="")
    assert app.notices.last[-1].text == "Saved 5 rows to clean.jsonl"

    app.data.save_copy("/data/clean.jsonl")
    silent.refuse(reading.SaveCopy, "/data/clean.jsonl is there already.", "Choose another name.")
    assert app.notices.last[-1].text == "/data/clean.jsonl is there already. Choose another name."


# Pairs of answers, and rated ones

QUESTION = Message("user", "6 times 7?")


def show_one(page, app, silent, shown, **fields):
    shown()
    app.data.row.shown = Row(row=0, line=1, **fields)
    app.data.row.changed.emit()
    page._row.view.set_value("text")
    page._row.view.changed.emit("text")


def test_a_pair_shows_both_answers_and_which_is_learned(page, app, silent, shown):
    better, worse = Message("assistant", "42"), Message("assistant", "41")
    show_one(page, app, silent, shown, messages=(QUESTION, better), rejected=(QUESTION, worse))

    assert "the chosen one is learned" in find(page, "data_rating").text()
    both = words(find(page, "data_both_answers"))
    assert "Chosen, the better answer | assistant | 42" in both
    assert "Rejected, the worse answer | assistant | 41" in both
    assert words(find(page, "data_text")).count("6 times 7?") == 1


@pytest.mark.parametrize(("label", "said"), [(True, "Rated good"), (False, "Rated bad")])
def test_a_rated_answer_says_its_rating(page, app, silent, shown, label, said):
    show_one(page, app, silent, shown, messages=(QUESTION, Message("assistant", "42")), label=label)

    assert find(page, "data_rating").text().startswith(said)


def test_every_format_can_be_picked(page):
    menu = page.findChild(QMenu, "data_formats")
    assert [action.data() for action in menu.actions()] == ["auto", *READ]


def test_the_columns_of_pairs_are_marked_as_guessed(page, shown, silent, qtbot):
    columns = ("question", "good", "poor")
    mapped = {"prompt": "question", "chosen": "good", "rejected": "poor"}
    shown(msgspec.structs.replace(REPORT, format="preference", columns=columns, map=mapped))
    qtbot.mouseClick(find(page, "data_columns_open"), Qt.MouseButton.LeftButton)

    assert find(page, "data_shape").value() == "two"
    assert find(page, "data_column_chosen").currentText() == "good (guessed)"
    choose(find(page, "data_column_chosen"), "poor")
    choose(find(page, "data_shape"), "rated")
    assert "Rating, good or bad" in find(page, "data_columns_missing").text()


# What the limit costs


def test_rows_tokens_and_updates_move_while_the_limit_is_dragged(page, app, shown, silent):
    shown()
    assert find(page, "data_cost").text() == "1 row (20\u202f%) is dropped"
    assert find(page, "data_lost").text() == "20 learned tokens (49\u202f%) are lost"
    assert find(page, "data_updates").text() == "About 1 update"

    histogram = find(page, "data_lengths")
    histogram._drag(histogram.x_of(3_100))
    assert find(page, "data_lost").text() == "No learned token is lost"
    assert app.draft.value("data.seq_len") == 2_048
