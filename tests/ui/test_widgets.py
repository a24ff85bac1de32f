"""Widgets that every page is built from: plain text, the wheel, what they tell, what is read aloud."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QFont
from PySide6.QtTest import QSignalSpy, QTest
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QStyleOptionComboBox,
    QVBoxLayout,
    QWidget,
)

from qlora_studio.ui.dress import Dress
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets import (
    Banner,
    Card,
    Chip,
    ChoiceBox,
    DecimalBox,
    ElidedLabel,
    FormRow,
    IconButton,
    Meter,
    NumberBox,
    NumberCard,
    Part,
    PlainLabel,
    Popover,
    SearchBox,
    SecondaryButton,
    Segmented,
    Slider,
    StackedBar,
    Switch,
    TextBox,
    ToastCorner,
    TypedNumber,
    plain_tooltip,
)

HOSTILE = "<b>bold</b><img src='file:///etc/passwd'>\x1b[31m\u202egnp.exe\x00&amp;"


@pytest.mark.fault(29)
def test_text_from_outside_is_shown_as_it_is_written(qtbot):  # S8
    label = PlainLabel(HOSTILE)
    qtbot.addWidget(label)
    assert label.textFormat() is Qt.TextFormat.PlainText
    assert "<b>bold</b>" in label.text()
    assert "\x1b" not in label.text() and "\u202e" not in label.text()


def test_a_label_holds_at_most_ten_thousand_characters(qtbot):  # S8
    label = PlainLabel("x" * 1_000_000)
    qtbot.addWidget(label)
    assert len(label.text()) <= 10_000


def test_a_long_name_is_cut_in_its_middle_and_whole_in_its_tooltip(qtbot):
    label = ElidedLabel("a-model-with-a-very-long-name-that-does-not-fit-anywhere")
    qtbot.addWidget(label)
    label.resize(80, 20)
    label.show()
    assert label.full_text() in label.toolTip()


def test_a_tooltip_never_becomes_rich_text():  # S8
    assert "<b>" not in plain_tooltip("<b>bold</b>")


def test_code_is_shown_sign_by_sign_without_ligatures(qtbot):
    label = PlainLabel("<|eot_id|>", "mono")
    qtbot.addWidget(label)
    label.show()
    features = label.font()
    assert [features.featureValue(QFont.Tag(name)) for name in ("calt", "liga")] == [0, 0]


def test_an_ampersand_in_a_buttons_words_is_no_shortcut(qtbot):
    button = SecondaryButton("Save & quit", name="save")
    qtbot.addWidget(button)
    assert button.accessibleName() == "Save & quit"
    assert button.shortcut().isEmpty()


def test_an_icon_button_has_words_for_those_who_hear_it(qtbot):
    button = IconButton("copy", "Copy the command", name="copy")
    qtbot.addWidget(button)
    assert button.accessibleName() == button.toolTip() == "Copy the command"


def test_a_segment_tells_what_a_person_chose_and_nothing_else(qtbot):
    mode = Segmented([("simple", "Simple"), ("advanced", "Advanced")], name="train_mode", label="Mode")
    qtbot.addWidget(mode)
    told: list[str] = []
    mode.changed.connect(told.append)
    mode.set_value("advanced")
    qtbot.mouseClick(mode.button("simple"), Qt.MouseButton.LeftButton)
    assert told == ["simple"]
    assert mode.value() == "simple"


def test_a_chip_says_by_icon_and_words_what_its_colour_says(qtbot):
    chip = Chip("1 finding", Tone.WARN)
    qtbot.addWidget(chip)
    icons = [label for label in chip.findChildren(QLabel) if not label.pixmap().isNull()]
    assert chip.text() == "1 finding"
    assert len(icons) == 1 and not icons[0].isHidden()


def test_a_banner_replaces_its_words_and_its_buttons(qtbot):
    banner = Banner()
    qtbot.addWidget(banner)
    banner.show_text("The engine ended.", Tone.BAD, SecondaryButton("Resume", name="resume"))
    banner.show_text("Finished.", Tone.OK, SecondaryButton("Chat", name="chat"))
    assert banner.text() == "Finished."
    assert banner.findChild(SecondaryButton, "resume") is None
    assert banner.findChild(SecondaryButton, "chat") is not None


def test_at_most_three_toasts_stand_in_the_corner(qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    window.resize(800, 600)
    window.show()
    corner = ToastCorner(window, bottom=32)
    for number in range(5):
        corner.show(f"Saved {number}")
    shown = {child.accessibleName() for child in window.findChildren(QWidget, "toast") if child.isVisible()}
    assert shown == {"Saved 2", "Saved 3", "Saved 4"}


def test_a_toast_shows_all_its_words(qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    window.resize(1024, 600)
    window.show()
    words = ToastCorner(window, bottom=32).show("What lies in /home/me/.cache/qlora-studio stays there.").text
    assert words.heightForWidth(words.width()) <= words.height() and words.wordWrap()


def test_a_toasts_button_undoes(qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    undone: list[bool] = []
    toast = ToastCorner(window, bottom=32).show("Moved", Tone.OK, "Undo", lambda: undone.append(True))
    qtbot.mouseClick(toast.findChild(QWidget, "toast_action"), Qt.MouseButton.LeftButton)
    assert undone == [True]


def test_a_popover_asks_and_only_a_yes_confirms(qtbot):
    button = SecondaryButton("Stop...", name="monitor_stop")
    qtbot.addWidget(button)
    button.show()
    told: list[bool] = []
    first = Popover(button, "Stop after saving?", "Stop and save", "Go on", name="stop")
    first.confirmed.connect(lambda: told.append(False))
    first.open()
    qtbot.mouseClick(first.no, Qt.MouseButton.LeftButton)
    second = Popover(button, "Stop after saving?", "Stop and save", "Go on", name="stop")
    second.confirmed.connect(lambda: told.append(True))
    second.open()
    qtbot.mouseClick(second.yes, Qt.MouseButton.LeftButton)
    assert told == [True]


def test_a_changed_setting_shows_its_default_and_the_way_back(qtbot):
    row = FormRow(
        "Rank", NumberBox(1, 512, 64, name="train_lora_r", label="Rank"), key_name="train_reset_lora_r"
    )
    qtbot.addWidget(row)
    row.show()
    arrow = row.findChild(QWidget, "train_reset_lora_r")
    assert not arrow.isVisible()
    row.set_changed("64")
    with qtbot.waitSignal(row.reset):
        qtbot.mouseClick(arrow, Qt.MouseButton.LeftButton)
    assert arrow.accessibleName() == "Rank: back to 64"


@pytest.mark.parametrize(("width", "said"), [(400, "default From the content"), (150, "default"), (70, "")])
def test_a_default_is_said_whole_or_not_at_all(qtbot, width, said):
    page = QWidget()
    qtbot.addWidget(page)
    field = TextBox(name="encoding", label="Encoding")
    row = FormRow("Encoding", field, key_name="reset", parent=page)
    page.show()
    row.set_changed("From the content")
    row.resize(width, 60)
    arrow = row.findChild(QWidget, "reset")
    assert (arrow.text(), arrow.toolTip()) == (said, "Back to From the content")


def test_a_choice_that_is_told_by_its_beginning_keeps_it(qtbot):
    box = ChoiceBox(
        [("windows-1250", "Windows-1250, Central Europe")],
        name="encoding",
        label="Encoding",
        elide=Qt.TextElideMode.ElideRight,
    )
    qtbot.addWidget(box)
    box.resize(140, 32)
    option = QStyleOptionComboBox()
    box.initStyleOption(option)
    elided = box._elided(option)
    assert elided.startswith("Windows-1250") and elided.endswith("…")


def test_a_problem_stands_under_its_field(qtbot):
    row = FormRow("Rank", NumberBox(1, 512, 64, name="train_lora_r", label="Rank"), key_name="reset")
    qtbot.addWidget(row)
    row.show()
    row.set_problem("Rank must be 512 or less.")
    assert row.findChild(QLabel, "train_lora_r_problem").text() == "Rank must be 512 or less."
    assert row.field.property("problem") is True


def test_a_decimal_shows_no_zeros_that_say_nothing(qtbot):
    box = DecimalBox(0, 1, 0.05, name="train_lora_dropout", label="Dropout")
    qtbot.addWidget(box)
    assert box.text() == "0.05"
    box.setValue(1)
    assert box.text() == "1.0"


@pytest.mark.parametrize(
    ("typed", "shown"), [("1e-5", "1e-05"), ("0,00005", "5e-05"), ("0.12345", "0.12345")]
)
def test_a_number_with_more_places_than_usual_is_shown_as_it_is(qtbot, typed, shown):
    box = TypedNumber(0.0, 1.0, 0.05, name="decay", label="Weight decay", step=0.05)
    qtbot.addWidget(box)
    line = box.findChild(QLineEdit)
    line.selectAll()
    QTest.keyClicks(line, typed)
    QTest.keyClick(line, Qt.Key.Key_Return)
    assert (box.value(), box.text()) == (float(shown), shown)


@pytest.fixture
def rank(qtbot):
    box = TypedNumber(1, 512, 64, name="rank", label="Rank", unit="layers")
    qtbot.addWidget(box)
    box.resize(160, 32)
    box.show()
    return box


def test_a_number_is_told_once_when_it_was_typed_into_its_line(rank, qtbot):
    told = QSignalSpy(rank.entered)
    line = rank.findChild(QLineEdit)
    line.selectAll()
    QTest.keyClicks(line, "300")
    QTest.keyClick(line, Qt.Key.Key_Return)
    rank.clearFocus()
    assert [told.at(at)[0] for at in range(told.count())] == [300]
    assert (rank.value(), rank.text()) == (300, "300 layers")


def test_more_digits_than_a_number_can_have_are_no_number(rank):
    told = QSignalSpy(rank.unreadable)
    rank.findChild(QLineEdit).setText(5_000 * "9")
    QTest.keyClick(rank, Qt.Key.Key_Return)
    assert told.at(0)[0] == f"'{18 * '9'}… (4,982 more characters)' is no whole number."


def test_arrows_move_a_number_up_to_its_limit_also_from_beyond_it(rank, qtbot):
    qtbot.mouseClick(rank, Qt.MouseButton.LeftButton, pos=QPoint(rank.width() - 8, 8))
    assert rank.value() == 65
    line = rank.findChild(QLineEdit)
    line.selectAll()
    QTest.keyClicks(line, "999")
    QTest.keyClick(line, Qt.Key.Key_Return)
    assert (rank.value(), rank.text()) == (65, "999")
    QTest.keyClick(rank, Qt.Key.Key_Up)
    assert (rank.value(), rank.text()) == (512, "512 layers")


def test_a_choice_keeps_its_value_when_the_list_is_read_anew(qtbot):
    box = ChoiceBox([("a", "First"), ("b", "Second")], name="pick", label="Pick")
    qtbot.addWidget(box)
    box.set_value("b")
    box.set_choices([("c", "Third"), ("b", "Second")])
    assert box.value() == "b"


def test_a_click_on_the_switch_turns_it(qtbot):
    switch = Switch(name="settings_sound", label="Sound")
    qtbot.addWidget(switch)
    with qtbot.waitSignal(switch.toggled):
        qtbot.mouseClick(switch, Qt.MouseButton.LeftButton)
    assert switch.isChecked()


def test_a_number_card_reads_number_unit_and_note(qtbot):
    card = NumberCard("Speed", name="monitor_speed_card")
    qtbot.addWidget(card)
    card.set_value("5,104", "tokens/s", "92 % of them learned from")
    assert card.accessibleDescription() == "5,104 tokens/s 92 % of them learned from"


def test_a_stacked_bar_makes_room_for_what_does_not_fit(qtbot):
    bar = StackedBar(name="train_promise_bar", label="Memory")
    qtbot.addWidget(bar)
    bar.resize(100, 26)
    bar.set_parts([Part("weights", 60, "vram_weights")], limit=40, total=48)
    assert bar.x_of(40) < bar.x_of(60) <= 100
    assert "limit 40.0" in bar.accessibleName()


def test_a_meter_stays_between_empty_and_full(qtbot):
    meter = Meter(label="Disk")
    qtbot.addWidget(meter)
    meter.set_share(1.7)
    assert meter.share() == 1.0


@pytest.fixture
def page_of_fields(qtbot):
    """A scrolled page with one field of each kind."""
    area = QScrollArea(widgetResizable=True)
    content = QWidget()
    layout = QVBoxLayout(content)
    fields = [
        NumberBox(1, 512, 64, name="number", label="Number"),
        DecimalBox(0, 1, 0.5, name="decimal", label="Decimal"),
        ChoiceBox([("a", "A"), ("b", "B"), ("c", "C")], name="choice", label="Choice"),
        Slider(0, 100, name="slider", label="Slider"),
    ]
    fields[2].set_value("b")
    fields[3].setValue(50)
    for field in fields:
        layout.addWidget(field)
    card = Card("Tall")
    card.setMinimumHeight(2000)
    layout.addWidget(card)
    area.setWidget(content)
    area.resize(400, 300)
    area.show()
    qtbot.addWidget(area)
    return area, fields


def test_the_wheel_changes_no_value_and_scrolls_the_page(page_of_fields):
    area, fields = page_of_fields
    before = [_value(field) for field in fields]
    scrolled = [_scrolled_by_wheel(area, field) for field in fields]
    assert [_value(field) for field in fields] == before
    assert all(by > 0 for by in scrolled)


def _value(field):
    return field.value()


def _scrolled_by_wheel(area, field):
    """By how much a turn over the field, which has the focus, moves the page."""
    area.verticalScrollBar().setValue(0)
    field.setFocus()
    QTest.wheelEvent(area.windowHandle(), QPointF(field.mapTo(area, field.rect().center())), QPoint(0, -120))
    return area.verticalScrollBar().value()


def test_a_choice_too_long_for_its_box_is_told_whole_by_the_tooltip(qtbot):
    box = ChoiceBox([("a", "Short"), ("b", "A name that nobody finds room for")], name="pick", label="Pick")
    qtbot.addWidget(box)
    box.setFixedWidth(120)
    box.show()
    assert box.toolTip() == ""
    box.set_value("b")
    assert box.toolTip() == "A name that nobody finds room for"
    box.set_value("a")
    assert box.toolTip() == ""


def test_a_snug_card_is_as_high_as_its_words_at_the_width_it_has(qtbot):
    page = QWidget()
    qtbot.addWidget(page)
    card, rest = Card("Title"), QWidget()
    card.body.addWidget(PlainLabel("many words that take several lines " * 6, wrap=True))
    card.keep_snug()
    column = QVBoxLayout(page)
    column.addWidget(card)
    column.addWidget(rest, 1)
    page.resize(260, 800)
    page.show()

    qtbot.waitUntil(lambda: card.height() == card.heightForWidth(card.width()))
    assert card.y() == column.contentsMargins().top()


@pytest.mark.parametrize(
    "name",
    ["support_replies_of_the_last_three_years.jsonl", "/somewhere/deep/in/a/folder/of/models", "x" * 90],
)
def test_a_long_name_is_broken_into_lines_and_reads_as_before(qtbot, name):
    label, short = PlainLabel(f"{name}: 64 copies", wrap=True), PlainLabel("copies " * 4, wrap=True)
    qtbot.addWidget(label)
    qtbot.addWidget(short)

    assert label.text() == f"{name}: 64 copies"
    assert label.minimumSizeHint().width() < label.fontMetrics().horizontalAdvance("x" * 30)


@pytest.mark.parametrize("words", ["step 200", "QLoRA paper, changed"])
def test_a_choice_is_as_wide_as_the_longest_of_its_words(qtbot, words):
    page = QWidget()
    qtbot.addWidget(page)
    Dress(page)
    box = ChoiceBox([("a", "A"), ("b", words)], name="pick", label="Pick")
    box.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
    box.set_value("b")
    QHBoxLayout(page).addWidget(box)
    page.resize(900, 100)
    page.show()

    qtbot.waitUntil(lambda: box.width() == box.sizeHint().width())
    assert box.toolTip() == ""  # an elided one says its words there


def test_the_magnifying_glass_grows_with_the_text(qtbot):
    box = SearchBox("Search", name="search")
    qtbot.addWidget(box)
    box.show()
    glass = box.findChild(QLabel)
    before = (glass.width(), box.textMargins().left())
    theme().set_text_size(200)
    after = (glass.width(), box.textMargins().left())
    theme().set_text_size(100)

    assert after == (2 * before[0], 2 * before[1])
