"""Chat: a message is sent, both sides answer, and everything can be stopped, copied and asked again."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QLabel, QLineEdit

from qlora_studio.config import places
from qlora_studio.memory.devices import CardReading
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.arena import (
    Arena,
    Judgement,
    Player,
    new_arena,
    save_arena,
    with_answer,
    with_judgement,
)
from qlora_studio.state.chat_turns import LEFT
from qlora_studio.state.markdown_blocks import markdown_blocks
from qlora_studio.ui.pages.chat import ChatPage
from qlora_studio.ui.pages.chat_text import ReplyText
from qlora_studio.ui.pages.chat_words import SteadyLabel, as_html
from qlora_studio.ui.widgets import PlainLabel
from tests.own_bin import use_own_bin
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import Example, make_run
from tests.ui.person import click, found, words

MODEL = "/models/tiny"
HOSTILE = "<img src='file:///etc/passwd'>\u202e\x07 **bold**"


@pytest.fixture
def run(app):
    example = Example(
        name="support",
        model="tiny",
        steps=20,
        evaluate_every=10,
        end="finished",
        changes={"model.path": MODEL},
    )
    return make_run(app.preferences.runs_folder, example)


@pytest.fixture
def page(app, run, qtbot):
    """With the run's adapter on the right."""
    page = ChatPage(app).whole()
    qtbot.addWidget(page)
    page.resize(1300, 900)
    page.show()
    page.opened(run)
    qtbot.waitUntil(lambda: app.chat.tuned is not None)
    return page


@pytest.fixture
def answered(page, silent, qtbot):
    """One turn is complete on both sides."""
    _send(page, qtbot, "Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(_loaded())
    _reply(silent, "I am the base.")
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    _reply(silent, "I am tuned.")
    return page


def test_a_run_that_is_opened_has_its_first_prompt_typed_already(page, app):
    assert found(page, "chat_input").toPlainText() == app.chat.prompts()[0]
    assert found(page, "chat_mode").value() == "two"
    assert words(page, "chat_right_tile") == "Tuned support"
    assert words(page, "chat_left") == "Base tiny, no adapter"


def test_before_the_first_message_prompts_are_offered(page, qtbot):
    found(page, "chat_input").clear()
    click(qtbot, page, "chat_prompt_1")
    assert found(page, "chat_input").toPlainText() == "Explain in two sentences why the sky is blue."
    assert words(page, "chat_empty") == "Ask something Both sides get the same message."


def test_enter_sends_and_shift_enter_starts_a_line(page, app, qtbot):
    box = found(page, "chat_input")
    box.clear()
    qtbot.keyClicks(box, "One")
    qtbot.keyClick(box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(box, "two")
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert app.chat.turns[0].text == "One\ntwo"
    assert box.toPlainText() == ""


def test_nothing_is_sent_where_nothing_was_typed(page, app, qtbot):
    box = found(page, "chat_input")
    box.clear()
    qtbot.keyClicks(box, "   ")
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert app.chat.turns == []
    assert not found(page, "chat_send").isEnabled()


def test_both_replies_stand_beside_each_other_with_their_figures(answered):
    assert words(answered, "chat_text_0_base") == "I am the base."
    assert words(answered, "chat_text_0_tuned") == "I am tuned."
    figures = words(answered, "chat_figures_0_tuned")
    assert figures.startswith("13.0 tokens/s   3 tokens   first after 0.20\u202fs")
    assert words(answered, "chat_context") == "15 of 8,192 tokens"
    assert not found(answered, "chat_empty").isVisibleTo(answered)


def test_send_becomes_stop_while_a_reply_is_written(page, silent, qtbot):
    _send(page, qtbot, "Hello")
    assert found(page, "chat_stop").isVisibleTo(page)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(events.LoadingProgress(done=143, total=272, words="Loading tiny"))
    assert words(page, "chat_figures_0_base") == "Loading tiny: 143 of 272"
    silent.hear(_loaded())
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=writing.id, text="I a", tokens=2))
    assert words(page, "chat_text_0_base") == "I a ▌"
    assert not found(page, "chat_send").isVisibleTo(page)
    click(qtbot, page, "chat_stop")
    assert silent.last_said(commands.StopGenerating).id == writing.id
    silent.hear(_finished(writing.id, "I a", ended="stopped"))
    assert words(page, "chat_figures_0_base").endswith("stopped")
    assert found(page, "chat_send").isVisibleTo(page)


def test_escape_stops_the_reply(page, silent, app, qtbot):
    _send(page, qtbot, "Hello")
    assert page.escape()
    assert not app.chat.busy
    assert not page.escape()


def test_a_failed_reply_says_why_in_its_place_and_is_asked_again(page, silent, qtbot):
    _send(page, qtbot, "Hello")
    silent.refuse(reading.CheckModel, "model.safetensors is cut short.", "Get it again.")
    assert words(page, "chat_text_0_base") == "model.safetensors is cut short. Get it again."
    assert not found(page, "chat_state_0_tuned").isVisibleTo(page)
    click(qtbot, page, "chat_retry_0_base")
    assert silent.asked(reading.CheckModel)


def test_a_reply_is_asked_again_with_another_seed(answered, silent, qtbot):
    click(qtbot, answered, "chat_again_0_base")
    _reply(silent, "Another answer.")
    assert words(answered, "chat_text_0_base") == "Another answer."
    assert [asked.sampling.seed for asked in silent.said(commands.Generate)] == [0, 0, 1]


def test_a_reply_is_copied_as_it_was_written(answered, app, qtbot):
    click(qtbot, answered, "chat_copy_0_tuned")
    assert QGuiApplication.clipboard().text() == "I am tuned."
    assert app.notices.last[-1].text == "Copied"


def test_one_side_alone_is_the_tuned_one(answered, silent, qtbot):
    click(qtbot, answered, "chat_mode_one")
    _send(answered, qtbot, "And now?")
    _reply(silent, "Tuned alone.")
    assert words(answered, "chat_text_1_tuned") == "Tuned alone."
    assert len(silent.said(commands.Generate)) == 3


def test_after_a_model_of_all_weights_the_one_it_began_with_can_be_chosen(page, app, qtbot):
    changes = {"training.finetuning": "full", "model.quantization": "none", "model.path": MODEL}
    asked = {"samples": ({"prompt": "Why is the sky green?"},)}
    made = Example(name="full", steps=20, evaluate_every=10, end="finished", changes=changes | asked)
    found(page, "chat_input").clear()
    page.opened(make_run(app.preferences.runs_folder, made))
    qtbot.waitUntil(lambda: app.chat.own_model is not None)
    assert found(page, "chat_input").toPlainText() == "Why is the sky green?"
    box = found(page, "chat_right")
    place = box.findData("")
    assert box.itemText(place) == "tiny, no adapter"
    box.setCurrentIndex(place)
    box.activated.emit(place)
    assert (app.chat.model.path, app.chat.own_model) == (MODEL, None)


def test_an_adapter_is_switched_without_loading_the_base_again(answered, app, silent, qtbot):
    box = found(answered, "chat_right")
    box.setCurrentIndex(box.findData(""))
    box.activated.emit(box.currentIndex())
    assert app.chat.tuned is None
    assert words(answered, "chat_right_tile") == "Tuned No adapter chosen"
    _send(answered, qtbot, "And now?")
    _reply(silent, "Base alone.")
    assert len(silent.said(commands.LoadModel)) == 1


def test_sampling_is_what_the_next_reply_is_drawn_with(answered, silent, qtbot):
    found(answered, "chat_temperature").setValue(20)
    _enter(answered, qtbot, "chat_max_tokens", "64")
    _enter(answered, qtbot, "chat_seed", "7")
    assert found(answered, "chat_preset").currentText() == "Precise"
    _enter(answered, qtbot, "chat_min_p", "0.05")
    _send(answered, qtbot, "And now?")
    _reply(silent, "Base.")
    sampling = silent.last_said(commands.Generate).sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.2, 64, 7)
    assert sampling.min_p == 0.05
    assert found(answered, "chat_preset").currentText() == "Own"


@pytest.mark.parametrize(
    ("name", "typed", "why"),
    [
        ("chat_top_k", "5000", "Top-k must be 0 to 1,000. 40 counts until then."),
        ("chat_max_tokens", "0", "Longest reply must be 1 to 32,768. 512 counts until then."),
        ("chat_min_p", "1,5", "Min-p must be 0.0 to 1.0. 0.0 counts until then."),
        ("chat_seed", "many", "'many' is no whole number. 0 counts until then."),
    ],
)
def test_a_number_that_can_not_stand_stays_as_it_was_typed(answered, app, qtbot, name, typed, why):
    before = app.chat.sampling
    _enter(answered, qtbot, name, typed)
    assert found(answered, name).text() == typed
    assert words(answered, "chat_sampling_problem") == why
    assert app.chat.sampling == before
    _enter(answered, qtbot, name, "1")
    assert not found(answered, "chat_sampling_problem").isVisibleTo(answered)
    assert app.chat.sampling != before


def test_greedy_switches_off_what_has_no_effect_and_says_so(answered, silent, qtbot):
    click(qtbot, answered, "chat_greedy")
    for name in ("chat_temperature", "chat_top_p", "chat_top_k", "chat_min_p", "chat_seed", "chat_same_seed"):
        assert not found(answered, name).isEnabled()
    assert found(answered, "chat_repeat_penalty").isEnabled()
    assert "have no effect" in words(answered, "chat_sampling")
    _send(answered, qtbot, "And now?")
    _reply(silent, "Base.")
    assert silent.last_said(commands.Generate).sampling.greedy


def test_the_sides_draw_apart_where_that_is_wanted(answered, app, qtbot):
    click(qtbot, answered, "chat_same_seed")
    assert not app.chat.same_seed


def test_the_system_prompt_goes_before_the_chat(answered, silent, qtbot):
    qtbot.keyClicks(found(answered, "chat_system"), "Be brief.")
    _send(answered, qtbot, "And now?")
    assert silent.asked(reading.EncodeChat)[0].messages[0].content == "Be brief."


def test_the_exact_text_can_be_seen(answered, qtbot):
    assert "Hash a41f 09c2" in words(answered, "chat_template")
    click(qtbot, answered, "chat_show_rendered")
    assert words(answered, "chat_rendered") == "<|user|>Hello"


def test_up_in_an_empty_box_brings_the_last_message_back_to_be_changed(answered, app, silent, qtbot):
    box = found(answered, "chat_input")
    qtbot.keyClick(box, Qt.Key.Key_Up)
    assert box.toPlainText() == "Hello"
    assert "beside the old message" in words(answered, "chat_input_card")
    box.setPlainText("Hello again")
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert [turn.text for turn in app.chat.turns] == ["Hello again"]
    assert silent.asked(reading.EncodeChat)


def test_escape_leaves_a_message_as_it_was(answered, app, qtbot):
    click(qtbot, answered, "chat_change_said_0")
    assert answered.escape()
    assert found(answered, "chat_input").toPlainText() == ""
    assert [turn.text for turn in app.chat.turns] == ["Hello"]
    assert not answered.escape()


@pytest.mark.parametrize("changed", ["chat_change_said_0", "chat_correct_0_base"])
def test_what_is_typed_for_an_old_chat_is_a_message_of_its_own_in_a_new_one(answered, app, qtbot, changed):
    click(qtbot, answered, changed)
    typed = found(answered, "chat_input").toPlainText()
    click(qtbot, answered, "chat_new")
    assert "Enter sends, Shift+Enter" in words(answered, "chat_input_card")
    qtbot.keyClick(found(answered, "chat_input"), Qt.Key.Key_Return)
    assert [turn.text for turn in app.chat.turns] == [typed]


def test_a_new_chat_begins_empty(answered, app, qtbot):
    click(qtbot, answered, "chat_new")
    assert app.chat.turns == []
    assert found(answered, "chat_empty").isVisibleTo(answered)


def test_the_keys_do_what_the_menu_says(answered, app, qtbot):
    answered.setFocus()
    qtbot.keyClick(answered, "b", Qt.KeyboardModifier.ControlModifier)
    assert not app.chat.side_by_side
    qtbot.keyClick(answered, "r", Qt.KeyboardModifier.ControlModifier)
    assert app.chat.busy
    qtbot.keyClick(answered, "n", Qt.KeyboardModifier.ControlModifier)
    assert app.chat.turns == []


def test_while_a_run_trains_the_page_says_so_and_offers_to_pause_it(page, app, silent, qtbot):
    app.engine.train(Path("/runs/other-run"))
    assert words(page, "chat_waits_for") == "other-run is training and holds the device."
    assert not found(page, "chat_send").isEnabled()
    click(qtbot, page, "chat_pause_training")
    assert silent.said(commands.PauseTraining)


def test_what_no_longer_fits_is_said(answered, silent, qtbot):
    _send(answered, qtbot, "And now?")
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=9_000))
    assert "the first message is left out" in words(answered, "chat_input_card")


def test_replies_are_plain_text_whatever_they_hold(page, silent, qtbot):  # S8, fault 29
    _send(page, qtbot, HOSTILE)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(_loaded())
    _reply(silent, HOSTILE)
    shown = "<img src='file:///etc/passwd'><U+202E><U+0007> "
    assert words(page, "chat_text_0_base") == f"{shown}bold"
    assert f"{shown}**bold**" in words(page, "chat_said")


def test_of_all_tags_in_a_reply_only_ours_are_tags(qtbot):  # S8, fault 29
    hostile = (
        "# <script>x</script>\n\n**<img src='file:///etc/passwd'>** *</p><a href='http://x'>y</a>*\n\n"
        '![a](file:///etc/passwd) [b](http://x) `<b onclick=x>` &lt;i&gt; ~~"style="~~\n\n- <li>'
    )
    written = as_html(markdown_blocks(hostile))
    assert set(re.findall(r"</?(\w+)", written)) == {"p", "b", "i", "s", "span"}
    assert not re.search(r"src=(?!&)|href=(?!&)|url\(", re.sub(r">[^<]*<", "><", written))


def test_the_safe_part_of_markdown_is_shown_and_paragraphs_once_they_are_complete(page, silent, qtbot):
    _send(page, qtbot, "Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(_loaded())
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=writing.id, text="**One** is\n\n- **tw", tokens=9))
    label = page.findChild(QLabel, "chat_text_0_base")
    assert label.text() == "One is"
    assert "<b>One</b>" in QLabel.text(label)
    assert words(page, "chat_text_0_base_words_1") == "- **tw ▌"
    silent.hear(
        events.GenerationFinished(
            id=writing.id, reply="**One** is\n\n- **two**", tokens=11, tokens_per_second=13.0,
            first_token_seconds=0.2, ended="end",
        )
    )  # fmt: skip
    assert label.text() == "One is\n• two"
    assert "<b>two</b>" in QLabel.text(label)


@pytest.mark.parametrize(("reply", "shown"), [("42.", "42."), (">", ">")])
def test_a_reply_of_marks_alone_takes_the_place_of_its_last_words(qtbot, reply, shown):
    text = ReplyText(name="reply")
    qtbot.addWidget(text)
    text.show_text("The answer is 17", written=False)
    text.show_text(reply, written=False)
    assert words(text, "reply") == shown
    assert "17" not in QLabel.text(text.findChild(QLabel, "reply"))


def test_the_memory_of_the_card_is_told(page, app):
    app.machine.card = CardReading(
        name="RTX", total_bytes=48 * 2**30, used_bytes=7 * 2**30, load=None, temperature_c=None, power_w=None,
        other_bytes=None,
    )  # fmt: skip
    found(page, "chat_memory").refresh()
    assert words(page, "chat_memory_used") == "7.0\u202fGiB"


def test_the_base_is_changed_on_the_models_page(page, asked, qtbot):
    click(qtbot, page, "chat_change_base")
    assert asked == [("models", None)]


@pytest.mark.parametrize("lines", [1, 3])
def test_what_is_typed_is_never_cut_off(page, lines):
    box = found(page, "chat_input")
    box.setPlainText("\n".join(["A line"] * lines))
    assert box.verticalScrollBar().maximum() == 0
    assert box.cursorRect().bottom() <= box.viewport().height()


def test_the_view_stays_where_the_person_scrolled_to(answered, silent, qtbot):
    view = found(answered, "chat_turns")
    for number in range(6):
        _send(answered, qtbot, f"Message {number}")
        _reply(silent, "Long words. " * 60)
        _reply(silent, "Long words. " * 60)
    bar = view.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 0 and bar.value() == bar.maximum())
    bar.setValue(0)
    _send_quietly(answered, silent)
    assert bar.value() == 0


def test_versions_of_a_reply_are_gone_through_with_arrows(answered, silent, qtbot):
    assert not found(answered, "chat_version_0_base").isVisibleTo(answered)
    click(qtbot, answered, "chat_again_0_base")
    assert not found(answered, "chat_version_0_base_before").isVisibleTo(answered)
    _reply(silent, "Another answer.")
    assert words(answered, "chat_version_0_base_words") == "2 of 2"
    assert not found(answered, "chat_version_0_tuned").isVisibleTo(answered)
    click(qtbot, answered, "chat_version_0_base_before")
    assert words(answered, "chat_text_0_base") == "I am the base."
    assert words(answered, "chat_version_0_base_words") == "1 of 2"
    assert words(answered, "chat_text_0_tuned") == "I am tuned."


def test_versions_of_a_message_are_gone_through_with_arrows(answered, silent, qtbot):
    click(qtbot, answered, "chat_change_said_0")
    found(answered, "chat_input").setPlainText("Good day")
    click(qtbot, answered, "chat_send")
    _reply(silent, "Day.")
    _reply(silent, "Day!")
    assert words(answered, "chat_said_version_0_words") == "2 of 2"
    click(qtbot, answered, "chat_said_version_0_next")
    assert words(answered, "chat_text_0_base") == "I am the base."
    assert "Hello" in words(answered, "chat_said")


def test_a_conversation_is_opened_from_the_list_with_a_click(answered, app, qtbot):
    click(qtbot, answered, "chat_new")
    view = _list_of(answered, qtbot)
    qtbot.waitUntil(lambda: view.model().rowCount() == 1)
    _click_row(qtbot, view, 0)
    qtbot.waitUntil(lambda: bool(app.chat.turns))
    assert words(answered, "chat_text_0_tuned") == "I am tuned."
    assert view.currentIndex().row() == 0
    assert found(answered, "chat_input").isVisibleTo(answered)
    assert not view.isVisibleTo(answered)


def test_a_conversation_is_opened_from_the_list_with_enter(answered, app, qtbot):
    click(qtbot, answered, "chat_new")
    view = _list_of(answered, qtbot)
    qtbot.waitUntil(lambda: view.model().rowCount() == 1)
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    _press_in_list(qtbot, view, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: bool(app.chat.turns))
    assert found(answered, "chat_input").isVisibleTo(answered)


def test_the_list_is_searched_for_all_that_was_said(answered, app, silent, qtbot):
    click(qtbot, answered, "chat_new")
    _send(answered, qtbot, "What is rust?")
    _reply(silent, "Iron oxide.")
    _reply(silent, "A language.")
    view = _list_of(answered, qtbot)
    qtbot.waitUntil(lambda: view.model().rowCount() == 2)
    qtbot.keyClicks(found(answered, "chat_search"), "oxide")
    qtbot.waitUntil(lambda: _names_in(view) == ["What is rust?"])
    qtbot.keyClicks(found(answered, "chat_search"), "xyz")
    assert words(answered, "chat_nothing_found") == "Nothing that was said has all of these words."
    assert not view.currentIndex().isValid()
    assert answered.escape()
    assert view.model().rowCount() == 2
    assert view.currentIndex().data() == "What is rust?"
    assert answered.escape()
    assert found(answered, "chat_input").isVisibleTo(answered)


def test_a_conversation_is_named_in_the_list(answered, app, qtbot):
    view = _list_of(answered, qtbot)
    qtbot.waitUntil(lambda: view.model().rowCount() == 1)
    click(qtbot, answered, "chat_rename")
    editor = view.findChild(QLineEdit)
    editor.setText("First words")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: view.model().index(0).data() == "First words")
    assert app.chat.name == "First words"
    assert view.isVisibleTo(answered)


def test_the_choice_stays_while_the_engine_speaks_and_a_reply_is_kept(answered, app, silent, qtbot):
    view = _list_of_two(answered, silent, qtbot)
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    assert view.currentIndex().data() == "Hello"
    app.engine.changed.emit()
    app.chat.rename(app.chat.open_path, "Rust")
    qtbot.waitUntil(lambda: _names_in(view) == ["Rust", "Hello"])
    assert view.currentIndex().data() == "Hello"
    assert found(answered, "chat_bin").isVisibleTo(answered)


def test_a_name_is_typed_to_its_end_whatever_happens_meanwhile(answered, app, silent, qtbot):
    view = _list_of_two(answered, silent, qtbot)
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    click(qtbot, answered, "chat_rename")
    editor = view.findChild(QLineEdit)
    editor.setText("Greet")
    app.engine.changed.emit()
    app.chat.rename(app.chat.open_path, "Rust")
    app.chat.conversations.wait()
    assert editor.isVisibleTo(answered)
    assert _names_in(view) == ["What is rust?", "Hello"]
    editor.setText("Greetings")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: _names_in(view) == ["Rust", "Greetings"])
    assert view.currentIndex().data() == "Greetings"


def test_delete_moves_the_chosen_conversation_to_the_bin(answered, app, silent, qtbot, tmp_path, monkeypatch):
    use_own_bin(monkeypatch, tmp_path / "bin")
    view = _list_of_two(answered, silent, qtbot)
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    _press_in_list(qtbot, view, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: _names_in(view) == ["What is rust?"])
    assert app.notices.last[-1].text == "Hello is in the bin."
    assert app.chat.turns[0].text == "What is rust?"


def test_delete_in_a_field_takes_letters_alone(answered, app, silent, qtbot, tmp_path, monkeypatch):
    use_own_bin(monkeypatch, tmp_path / "bin")
    view = _list_of_two(answered, silent, qtbot)
    qtbot.keyClick(found(answered, "chat_search"), Qt.Key.Key_Delete)
    click(qtbot, answered, "chat_rename")
    for _ in range(30):
        qtbot.keyClick(view.findChild(QLineEdit), Qt.Key.Key_Delete)
    app.chat.conversations.wait()
    assert _names_in(view) == ["What is rust?", "Hello"]


def test_the_bin_takes_the_open_conversation_and_a_new_chat_begins(
    answered, app, qtbot, tmp_path, monkeypatch
):
    use_own_bin(monkeypatch, tmp_path / "bin")
    view = _list_of(answered, qtbot)
    qtbot.waitUntil(lambda: view.model().rowCount() == 1)
    click(qtbot, answered, "chat_bin")
    qtbot.waitUntil(lambda: view.model().rowCount() == 0)
    assert app.chat.turns == []
    assert app.notices.last[-1].text == "Hello is in the bin."


def test_the_menu_bins_and_names_the_conversation_that_is_read(
    answered, app, silent, qtbot, tmp_path, monkeypatch
):
    use_own_bin(monkeypatch, tmp_path / "bin")
    view = _list_of_two(answered, silent, qtbot)
    qtbot.keyClicks(found(answered, "chat_search"), "base")
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    click(qtbot, answered, "chat_to_list")
    _choose_in_menu(answered, "Name the conversation")
    editor = view.findChild(QLineEdit)
    editor.setText("Rust")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: _names_in(view) == ["Rust", "Hello"])
    _press_in_list(qtbot, view, Qt.Key.Key_Down)
    click(qtbot, answered, "chat_to_list")
    _choose_in_menu(answered, "Move the conversation to the bin")
    qtbot.waitUntil(lambda: _names_in(view) == ["Hello"])
    assert app.notices.last[-1].text == "Rust is in the bin."


def test_where_nothing_was_said_the_menu_says_why_it_names_and_bins_nothing(page, qtbot):
    page.menu.aboutToShow.emit()
    off = [action.text() for action in page.menu.actions() if not action.isEnabled()]
    assert off == [
        "Name the conversation (nothing was said yet)",
        "Move the conversation to the bin (nothing was said yet)",
    ]


@pytest.mark.parametrize("focus", ["chat_list", "chat_search"])
def test_the_menu_names_the_keys_of_the_list_where_they_act(answered, silent, qtbot, focus):
    assert not any("\tF2" in words or "\tDel" in words for words in _menu_of(answered))
    view = _list_of_two(answered, silent, qtbot)
    assert {"Name the conversation\tF2", "Move the conversation to the bin\tDel"} <= set(_menu_of(answered))
    found(answered, focus).setFocus()
    qtbot.keyClick(found(answered, focus), Qt.Key.Key_F2)
    assert view.findChild(QLineEdit).isVisibleTo(answered)


def test_what_can_not_be_opened_is_named_beside_the_list(page, app, qtbot):  # R15
    folder = places.conversations_folder()
    folder.mkdir(parents=True)
    (folder / "old.json").write_text("{")
    _list_of(page, qtbot)
    page.rescan()
    qtbot.waitUntil(lambda: bool(app.chat.conversations.unreadable))
    assert words(page, "chat_list_problem").startswith("old.json is damaged.")


def test_names_in_the_list_are_plain_text(answered, app, silent, qtbot):  # S8
    click(qtbot, answered, "chat_new")
    _send(answered, qtbot, HOSTILE)
    view = found(answered, "chat_list")
    qtbot.waitUntil(lambda: view.model().rowCount() == 2)
    assert view.model().index(0).data() == "<img src='file:///etc/passwd'><U+202E><U+0007> **bold**"


def test_what_could_not_be_kept_is_said_on_the_page(answered, app, qtbot, monkeypatch):  # R10
    monkeypatch.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
    with qtbot.waitSignal(app.chat.conversations.told):
        _send(answered, qtbot, "And now?")
    assert words(answered, "banner").startswith("Could not save the conversation")


def test_ctrl_f_searches_what_was_said(answered):
    answered.open_search()
    assert found(answered, "chat_search").isVisibleTo(answered)


REASONED = "<think>They ask for a loop.</think>Here:\n```python\nfor a in b:\n    pass\n```\nDone."


def test_code_stands_in_a_block_that_is_copied_alone(answered, app, silent, qtbot):
    _send(answered, qtbot, "A loop")
    _reply(silent, REASONED)
    code = "chat_text_1_base_code_2"
    assert words(answered, f"{code}_text") == "for a in b:\n    pass"
    assert words(answered, f"{code}_language") == "python"
    click(qtbot, answered, f"{code}_copy")
    assert QGuiApplication.clipboard().text() == "for a in b:\n    pass"


def test_a_thought_is_folded_until_it_is_wanted(answered, silent, qtbot):
    _send(answered, qtbot, "A loop")
    _reply(silent, REASONED)
    thought = "chat_text_1_base_thought_0"
    assert found(answered, f"{thought}_fold").text() == "Reasoning, 5 words"
    assert not found(answered, f"{thought}_text").isVisibleTo(answered)
    click(qtbot, answered, f"{thought}_fold")
    assert words(answered, f"{thought}_text") == "They ask for a loop."


def test_what_is_written_grows_in_its_part_while_the_others_stay(page, silent, qtbot):
    _send(page, qtbot, "Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(_loaded())
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=writing.id, text="Here:\n```\na = ", tokens=6))
    first = found(page, "chat_text_0_base")
    assert words(page, "chat_text_0_base_code_1_text") == "a =  ▌"
    silent.hear(events.TextGenerated(id=writing.id, text="1\n```\nDone", tokens=9))
    assert found(page, "chat_text_0_base") is first
    assert words(page, "chat_text_0_base_code_1_text") == "a = 1"
    assert words(page, "chat_text_0_base_words_2") == "Done ▌"


def test_a_part_knows_its_height_anew_when_its_words_or_their_size_change(qtbot):
    steady = SteadyLabel("chat", name="steady")
    plain = PlainLabel("", "chat", wrap=True)
    heights = []
    for text, size in (("Word", 14), ("Word " * 80, 14), ("Word " * 80, 21)):
        for label in (steady, plain):
            qtbot.addWidget(label)
            label.setText(text)
            label.setStyleSheet(f"font-size: {size}px")
            label.ensurePolished()
        heights.append(steady.heightForWidth(300))
        assert heights[-1] == plain.heightForWidth(300)
    assert heights == sorted(set(heights))


def test_stop_words_are_typed_with_commas_between_them(answered, app, silent, qtbot):
    qtbot.keyClicks(found(answered, "chat_stop_words"), r"END, \n\n,")
    assert app.chat.stop_words == ("END", "\n\n")
    _send(answered, qtbot, "Go on")
    _reply(silent, "One.END Two.")
    assert words(answered, "chat_text_1_base") == "One."
    assert words(answered, "chat_figures_1_base").endswith("ended at a stop word")


def test_a_meter_shows_how_full_the_context_is(answered, silent, qtbot):
    assert found(answered, "chat_context_meter").share() == pytest.approx(15 / 8192)
    assert found(answered, "chat_context_meter").isVisibleTo(answered)
    click(qtbot, answered, "chat_new")
    assert not found(answered, "chat_context_meter").isVisibleTo(answered)
    assert not found(answered, "chat_context").isVisibleTo(answered)


def test_up_to_three_adapters_answer_under_their_names(answered, app, silent, qtbot):
    for name in ("second", "third", "fourth"):
        make_run(app.preferences.runs_folder, _example(name))
    assert not found(answered, "chat_also").isVisibleTo(answered)
    app.chat.refresh()
    qtbot.waitUntil(lambda: found(answered, "chat_also").isVisibleTo(answered))
    offered = {action.text(): action for action in found(answered, "chat_also").menu().actions()}
    offered["second"].trigger()
    offered["third"].trigger()
    assert [name for name, action in offered.items() if not action.isEnabled()] == ["fourth"]
    assert words(answered, "chat_right_tile") == "Tuned + 2 more"
    assert found(answered, "chat_same_seed").text() == "Same seed for all replies"
    _send(answered, qtbot, "And now?")
    for text in ("Base.", "One."):
        _reply(silent, text)
    for text in ("Two.", "Three."):
        silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
        _reply(silent, text)
    sides = ("base", "tuned", "tuned_2", "tuned_3")
    assert [words(answered, f"chat_text_1_{side}") for side in sides] == ["Base.", "One.", "Two.", "Three."]
    assert [words(answered, f"chat_name_1_{side}") for side in sides] == [
        "Base", "support", "second", "third",
    ]  # fmt: skip
    assert not found(answered, "chat_name_0_base").isVisibleTo(answered)


def test_a_reply_of_another_adapter_than_the_chosen_one_stands_under_its_name(answered, app, silent, qtbot):
    make_run(app.preferences.runs_folder, _example("second"))
    app.chat.refresh()
    qtbot.waitUntil(lambda: len(app.chat.choices) == 2)
    assert not found(answered, "chat_name_0_tuned").isVisibleTo(answered)
    for other in [*app.chat.others(), None]:
        app.chat.choose_tuned(other)
        assert words(answered, "chat_name_0_tuned") == "support"
        assert words(answered, "chat_name_0_base") == "Base"


def _example(name):
    changes = {"model.path": MODEL}
    return Example(name=name, model="tiny", steps=20, evaluate_every=10, end="finished", changes=changes)


def _list_of(page, qtbot):
    click(qtbot, page, "chat_to_list")
    return found(page, "chat_list")


def _list_of_two(page, silent, qtbot):
    """What is rust? is open and stands above Hello."""
    click(qtbot, page, "chat_new")
    _send(page, qtbot, "What is rust?")
    _reply(silent, "Iron oxide.")
    _reply(silent, "A language.")
    view = _list_of(page, qtbot)
    qtbot.waitUntil(lambda: _names_in(view) == ["What is rust?", "Hello"])
    page.app.chat.conversations.wait()
    return view


def _press_in_list(qtbot, view, key):
    view.setFocus()
    qtbot.keyClick(view, key)


def _menu_of(page):
    page.menu.aboutToShow.emit()
    return [action.text() for action in page.menu.actions()]


def _choose_in_menu(page, words):
    _menu_of(page)
    next(action for action in page.menu.actions() if action.text() == words).trigger()


def _names_in(view):
    return [view.model().index(row).data() for row in range(view.model().rowCount())]


def _no_space(descriptor):
    raise OSError(28, "No space left on device")


def _click_row(qtbot, view, row):
    place = view.visualRect(view.model().index(row)).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)


def _send(page, qtbot, text):
    box = found(page, "chat_input")
    box.setPlainText(text)
    click(qtbot, page, "chat_send")


def _send_quietly(page, silent):
    """A reply that is being written grows."""
    turn = page.app.chat.turns[-1]
    page.app.chat.again(turn, turn.reply(LEFT))
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=writing.id, text="More words. " * 200, tokens=400))


def _loaded():
    return events.ModelLoaded(
        model=MODEL,
        parameters=1,
        trainable_parameters=0,
        seconds=1.0,
        device_name="CPU",
        compute_dtype="float32",
    )


def _reply(silent, text):
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.hear(_finished(silent.last_said(commands.Generate).id, text))


def _finished(reply_id, text, ended="end"):
    return events.GenerationFinished(
        id=reply_id, reply=text, tokens=3, tokens_per_second=13.0, first_token_seconds=0.2, ended=ended
    )


# Differences ----------------------------------------------------------------------------------------


def test_where_the_replies_differ_is_marked_on_both_sides(answered, qtbot):
    base, tuned = (answered.findChild(QLabel, f"chat_text_0_{side}") for side in ("base", "tuned"))
    for label, own in ((base, "the base."), (tuned, "tuned.")):
        (marked,) = re.findall("text-decoration:underline[^>]*>([^<]*)<", QLabel.text(label))
        assert marked == own
    assert words(answered, "chat_figures_0_tuned").endswith("underlined: not in the base's")
    assert words(answered, "chat_figures_0_base").endswith("underlined: not in the tuned reply")


def test_marks_can_be_put_away(answered, app):
    app.chat.set_mark_differences(False)
    label = answered.findChild(QLabel, "chat_text_0_tuned")
    assert "underline" not in QLabel.text(label)
    assert "underlined" not in words(answered, "chat_figures_0_tuned")


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [
        ("word " * 1_300, "word " * 1_301, "too long to mark differences"),
        ("All other words, and more", "Nothing of this is there", "hardly a word as in the base's"),
        ("word " * 1_300, "word " * 1_300, "first after 0.20\u202fs"),
        ("42.", "42.", "first after 0.20\u202fs"),
    ],
)
def test_why_nothing_is_marked_is_said(answered, silent, qtbot, base, tuned, said):
    _send(answered, qtbot, "And now?")
    _reply(silent, base)
    _reply(silent, tuned)
    assert words(answered, "chat_figures_1_tuned").endswith(said)


def test_nothing_is_marked_while_a_reply_is_written(answered, silent, qtbot):
    _send(answered, qtbot, "And now?")
    _reply(silent, "I am the base again.")
    assert "underlined" not in words(answered, "chat_figures_1_base")


# Answers for training -------------------------------------------------------------------------------


def _kept():
    path = places.good_answers_file()
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


def test_a_good_answer_is_a_row_for_training_and_can_be_taken_out(answered, app, qtbot):
    with qtbot.waitSignal(app.chat.good_answers.changed):
        click(qtbot, answered, "chat_good_0_tuned")
    assert _kept() == [
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am tuned."}]
    ]
    assert "Take it out" in found(answered, "chat_good_0_tuned").toolTip()
    assert "Take it out" not in found(answered, "chat_good_0_base").toolTip()
    with qtbot.waitSignal(app.chat.good_answers.changed):
        app.notices.last[-1].undo()
    assert _kept() == []
    assert "Take it out" not in found(answered, "chat_good_0_tuned").toolTip()


def test_only_the_good_answer_of_a_chat_is_learned(answered, app, silent, qtbot):
    _send(answered, qtbot, "And now?")
    _reply(silent, "Base again.")
    _reply(silent, "Tuned again.")
    with qtbot.waitSignal(app.chat.good_answers.changed):
        app.chat.switch_good(app.chat.turns[1], app.chat.turns[1].replies[1])
    (row,) = _kept()
    assert [(message["content"], message.get("loss_weight")) for message in row] == [
        ("Hello", None), ("I am tuned.", 0.0), ("And now?", None), ("Tuned again.", None),
    ]  # fmt: skip


def test_an_answer_is_written_as_it_should_be_beside_the_models_own(answered, app, silent, qtbot):
    click(qtbot, answered, "chat_correct_0_tuned")
    box = found(answered, "chat_input")
    assert box.toPlainText() == "I am tuned."
    assert "to be kept for training" in words(answered, "chat_input_card")
    asked = len(silent.said(commands.Generate))
    box.setPlainText("I am well tuned.")
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert words(answered, "chat_text_0_tuned") == "I am well tuned."
    assert words(answered, "chat_version_0_tuned") == "2 of 2"
    assert "corrected by you" in words(answered, "chat_figures_0_tuned")
    assert len(silent.said(commands.Generate)) == asked
    with qtbot.waitSignal(app.chat.good_answers.changed):
        click(qtbot, answered, "chat_good_0_tuned")
    assert _kept()[0][-1]["content"] == "I am well tuned."


def test_escape_leaves_an_answer_as_it_was(answered, app, qtbot):
    click(qtbot, answered, "chat_correct_0_base")
    assert answered.escape()
    assert found(answered, "chat_input").toPlainText() == ""
    assert app.chat.turns[0].replies[0].text == "I am the base."


def test_the_good_answers_open_as_data(answered, app, asked, qtbot):
    answered._on_open_good()
    assert asked == []
    with qtbot.waitSignal(app.chat.good_answers.changed):
        click(qtbot, answered, "chat_good_0_base")
    answered._on_open_good()
    assert asked == [("data", places.good_answers_file())]


def test_a_full_disk_is_said_and_nothing_is_kept(answered, app, qtbot, monkeypatch):  # R10
    monkeypatch.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
    with qtbot.waitSignal(app.chat.good_answers.refused):
        click(qtbot, answered, "chat_good_0_base")
    assert words(answered, "banner").startswith("Could not save the good answer")


# The template lock ----------------------------------------------------------------------------------


def test_another_template_than_in_training_is_shown_as_a_difference_and_can_be_put_right(
    answered, app, silent, qtbot
):
    app.chat.tuned = dataclasses.replace(app.chat.tuned, template_sha256="a41f09c2" + "0" * 56)
    _send(answered, qtbot, "And now?")
    other = {"template_sha256": "ffff" + "0" * 60, "difference": "-<|user|>\n+[user]", "trained_known": True}
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **{**chat_encoded(), **other})
    assert app.chat.template_differs
    click(qtbot, answered, "chat_show_difference")
    assert words(answered, "chat_template_difference") == "-<|user|>\n+[user]"
    click(qtbot, answered, "chat_use_trained")
    assert "From the next message on the trained one is used" in words(answered, "chat_template")
    app.chat.stop()
    silent.hear(_finished(silent.last_said(commands.Generate).id, "It is", ended="stopped"))
    _send(answered, qtbot, "Again?")
    asked = silent.asked(reading.EncodeChat)[0]
    assert (asked.trained, asked.run) == (True, str(app.chat.tuned.run.folder))
    trained = {**chat_encoded(), **other, "template_sha256": app.chat.tuned.template_sha256}
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **trained)
    assert "the trained one" in words(answered, "chat_template")
    assert found(answered, "chat_use_trained").text() == "Use the model's own"


# The arena ------------------------------------------------------------------------------------------


@pytest.fixture
def arena(answered, app, qtbot):
    """Two prompts, answered by base and tuned model; nothing is judged yet."""
    players = (Player(name="Base"), Player(name="support<b>", adapter="/runs/support/adapter"))
    arena = new_arena(Arena(model=app.chat.model, players=players, prompts=("Why?", "How?")))
    for prompt in range(2):
        for player, said in enumerate(("I am **plain**.", "I am tuned.")):
            arena = with_answer(arena, prompt, player, f"{said} {prompt}")
    save_arena(places.arenas_folder() / "2026-11-27-000000.json", arena)
    click(qtbot, answered, "chat_to_arena")
    qtbot.waitUntil(lambda: app.arena.arena is not None)
    return answered


def test_two_answers_stand_side_by_side_without_names(arena, app):
    pair = app.arena.pair
    said = {0: "I am plain. 0", 1: "I am tuned. 0"}
    assert words(arena, "chat_arena_prompt") == "Why?"
    assert words(arena, "chat_arena_left") == said[pair.left]
    assert words(arena, "chat_arena_right") == said[pair.right]
    shown = words(arena, "chat_arena")
    assert "Base" not in shown and "support" not in shown
    assert "0 of 2 judged" in shown
    assert not found(arena, "chat_input").isVisibleTo(arena)


def test_keys_and_buttons_are_votes_and_a_vote_can_be_taken_back(arena, app, qtbot):
    pair = app.arena.pair
    qtbot.keyClick(found(arena, "chat_arena_left_better"), Qt.Key.Key_2)
    assert app.arena.arena.votes[0].winner == pair.right
    click(qtbot, arena, "chat_arena_tie")
    assert app.arena.arena.votes[1].winner == -1
    assert words(arena, "chat_arena_prompt") == "All is judged."
    assert not found(arena, "chat_arena_tie").isEnabled()
    assert arena.undo()
    click(qtbot, arena, "chat_arena_undo")
    assert app.arena.arena.votes == ()
    assert not arena.undo()


def test_the_standing_names_them_with_elo_interval_and_games(arena, app, qtbot):
    qtbot.keyClick(found(arena, "chat_arena_left_better"), Qt.Key.Key_1)
    winner = app.arena.arena.players[app.arena.arena.votes[0].winner].name
    click(qtbot, arena, "chat_arena_standing")
    model = found(arena, "chat_arena_table").model()
    qtbot.waitUntil(lambda: model.rowCount() == 2, timeout=10_000)
    first = [model.index(0, column).data() for column in range(model.columnCount())]
    assert first == ["A", winner, "1,016", "1,016 to 1,016", "1", "–", "1 of 1"]
    assert not found(arena, "chat_arena_answers").isVisibleTo(arena)


def test_all_votes_are_saved_as_a_table(arena, app, qtbot, tmp_path):
    qtbot.keyClick(found(arena, "chat_arena_left_better"), Qt.Key.Key_1)
    click(qtbot, arena, "chat_arena_standing")
    click(qtbot, arena, "chat_arena_csv")
    with qtbot.waitSignal(app.arena.saved):
        arena.findChild(QFileDialog, "chat_save_votes").fileSelected.emit(str(tmp_path / "votes.csv"))
    assert (tmp_path / "votes.csv").read_text("utf-8").startswith("prompt,left,right,winner")


def test_a_judge_model_is_chosen_and_what_it_is_worth_stands_below_the_standing(arena, app, silent, qtbot):
    click(qtbot, arena, "chat_arena_standing")
    assert not found(arena, "chat_arena_trust").isVisibleTo(arena)
    click(qtbot, arena, "chat_arena_judge")
    arena.findChild(QFileDialog, "chat_pick_judge").fileSelected.emit("/models/judge")
    assert words(arena, "chat_arena_doing") == "Checking the judge: 0 of 2"
    assert not found(arena, "chat_arena_judge").isEnabled()
    click(qtbot, arena, "chat_arena_stop")
    for item in (
        Judgement(prompt=0, one=0, other=1, forwards=0, backwards=1),
        Judgement(prompt=1, one=0, other=1, forwards=0, backwards=1),
    ):
        app.arena.arena = with_judgement(app.arena.arena, item)
    app.arena.changed.emit()
    assert "What stood first won 100% of its 4 verdicts" in words(arena, "chat_arena_trust")


def test_escape_and_the_button_lead_back_to_the_chat(arena, qtbot):
    assert arena.escape()
    assert found(arena, "chat_input").isVisibleTo(arena)
    click(qtbot, arena, "chat_to_arena")
    click(qtbot, arena, "chat_arena_back")
    assert found(arena, "chat_input").isVisibleTo(arena)
    assert not found(arena, "chat_arena").isVisibleTo(arena)


def test_a_new_arena_reads_its_prompts(answered, app, silent, qtbot):
    click(qtbot, answered, "chat_to_arena")
    assert found(answered, "chat_arena_empty").isVisibleTo(answered)
    click(qtbot, answered, "chat_arena_new")
    answered.findChild(QFileDialog, "chat_pick_prompts").fileSelected.emit("/data/prompts.txt")
    assert words(answered, "chat_arena_doing") == "Reading the prompts"
    silent.refuse(reading.ReadPrompts, "prompts.txt holds no prompt.", "Write one a line.")
    assert words(answered, "chat_arena_problem") == "prompts.txt holds no prompt. Write one a line."


def _enter(page, qtbot, name, text):
    line = found(page, name).findChild(QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, text)
    qtbot.keyClick(line, Qt.Key.Key_Return)
