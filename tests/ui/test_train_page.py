"""Train: settings with their cost in sight, mended by a click, and started."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel, QScrollArea, QWidget

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.setting import fields_of
from qlora_studio.config.toml_file import read_run_config, with_changes
from qlora_studio.memory.devices import CardReading, RamReading
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, reading
from qlora_studio.protocol.events import LoadingProgress, Problem
from qlora_studio.state import launch
from qlora_studio.ui.figures import in_gib
from qlora_studio.ui.pages.train import TrainPage
from tests.state.reports import counted, import_report, model_report
from tests.ui.person import click, found, words

pytestmark = pytest.mark.usefixtures("no_card_but_memory")


@pytest.fixture
def page(app, qtbot):
    app.draft.set_many({"model.path": "/models/tiny", "data.path": "/data/chats.jsonl"})
    page = TrainPage(app).whole()
    qtbot.addWidget(page)
    page.resize(1300, 900)
    page.show()
    page.opened(None)
    return page


@pytest.fixture
def ready(page, app, silent, qtbot, tmp_path):
    """Model and data are read, and 3,000 rows counted: about 23 updates at the defaults."""
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report())
    report = import_report(conversations=3_000)
    silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=report)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    lengths = [100 + row % 301 for row in range(3_000)]
    silent.answer(reading.CountTokens, reading.TokensCounted, **counted(tmp_path, lengths))
    qtbot.waitUntil(lambda: bool(app.train.problems))
    return page


@pytest.fixture
def advanced(ready, qtbot):
    click(qtbot, ready, "train_mode_advanced")
    return ready


def test_while_model_and_data_are_read_the_start_says_what_it_waits_for(page, silent):
    silent.tell_progress(reading.CheckModel, 14, 291, "Checking tensors")
    assert words(page, "train_waits_for") == "Start waits for: checking tensors: 14 of 291"
    assert not found(page, "train_start").isEnabled()
    assert "…" in words(page, "train_length")


def test_the_problems_card_says_what_the_start_waits_for_and_calls_nothing_well(page, silent):
    silent.tell_progress(reading.CheckModel, 14, 291, "Checking tensors")
    assert words(page, "train_problems_count") == "looking"
    assert "Start waits for: checking tensors: 14 of 291" in words(page, "train_problems")
    assert "Nothing stands in the way" not in words(page, "train_problems")


def test_while_tokens_are_counted_nothing_is_called_well_yet(page, silent, qtbot):
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report())
    silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=import_report())
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    silent.tell_progress(reading.CountTokens, 41, 300, "Counting tokens")
    qtbot.waitUntil(lambda: "Counting tokens: 41 of 300 rows" in words(page, "train_problems"))
    assert words(page, "train_problems_count") == "looking"
    assert found(page, "train_start").isEnabled()


def test_while_the_sample_is_unpacked_the_card_tells_how_far_it_is(app, silent, qtbot):
    page = TrainPage(app).whole()
    qtbot.addWidget(page)
    page.show()
    page.opened(None)
    silent.hear(LoadingProgress(done=1, total=3, words="Unpacking the sample model"))
    told = "Start waits for: unpacking the sample model: 1 of 3"
    qtbot.waitUntil(lambda: told in words(page, "train_problems"))


def test_the_tiles_say_what_was_chosen_and_how_it_stands(ready):
    assert words(ready, "train_model_path") == "tiny 135 M · NF4, double quantized checked"
    assert "3,000 rows · " in words(ready, "train_data_path")
    assert "read" in words(ready, "train_data_path")


def test_a_tile_turns_into_the_reason_and_offers_another_choice(page, silent, asked, qtbot):
    silent.refuse(reading.CheckModel, "config.json is missing in /models/tiny.")
    qtbot.waitUntil(lambda: "config.json is missing" in words(page, "train_model_path"))
    button = found(page, "train_change_model")
    assert button.text() == "Choose again"
    click(qtbot, page, "train_change_model")
    assert asked == [("models", None)]


def test_the_encoding_of_a_held_out_file_is_asked_for_where_there_is_one(advanced, app):
    assert advanced.findChild(QWidget, "train_data_validation_encoding") is None
    app.draft.set("data.validation", "/data/held.jsonl")
    field = found(advanced, "train_data_validation_encoding")
    assert field.isVisibleTo(advanced)
    app.draft.set("data.validation", 0.1)
    assert not field.isVisibleTo(advanced)


def test_what_is_preferred_is_asked_for_where_answers_are(advanced, app):
    app.draft.set("training.method", "dpo")
    beta, smoothing = (found(advanced, f"train_preference_{name}") for name in ("beta", "label_smoothing"))
    noise = found(advanced, "train_training_neftune_alpha")
    assert [field.isVisibleTo(advanced) for field in (beta, smoothing, noise)] == [True, True, False]
    app.draft.set("training.method", "kto")
    assert [field.isVisibleTo(advanced) for field in (beta, smoothing, noise)] == [True, False, False]
    app.draft.set("training.method", "sft")
    assert [field.isVisibleTo(advanced) for field in (beta, smoothing, noise)] == [False, False, True]


def test_where_all_weights_learn_nothing_is_asked_of_an_adapter(advanced, app):
    rank, switch = (found(advanced, f"train_lora_{name}") for name in ("r", "use_rslora"))
    assert [field.isVisibleTo(advanced) for field in (rank, switch)] == [True, True]
    _click_on(found(advanced, "train_training_finetuning"), "full")
    assert app.draft.config.trains_all
    assert found(advanced, "train_model_quantization").currentData() == "none"
    assert [field.isVisibleTo(advanced) for field in (rank, switch)] == [False, False]
    _click_on(found(advanced, "train_model_quantization"), "nf4")
    assert found(advanced, "train_training_finetuning").currentData() == "lora"
    assert [field.isVisibleTo(advanced) for field in (rank, switch)] == [True, True]


def a_card(capability: tuple[int, int] | None) -> CardReading:
    return CardReading(
        name="H100",
        total_bytes=80 * 2**30,
        used_bytes=2**30,
        load=0.0,
        temperature_c=40,
        power_w=70.0,
        other_bytes=0,
        compute_capability=capability,
    )


@pytest.mark.parametrize(
    ("card", "is_asked"),
    [(a_card((9, 0)), True), (a_card(None), True), (a_card((8, 6)), False), (None, False)],
    ids=["Hopper", "one that does not tell", "Ampere", "none"],
)
def test_fp8_is_asked_for_where_the_card_may_multiply_so(advanced, app, monkeypatch, card, is_asked):
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    advanced.opened(None)
    QCoreApplication.sendPostedEvents()
    shown = advanced.findChildren(QWidget, "train_training_fp8")
    assert [switch.isVisibleTo(advanced) for switch in shown] == [True] * is_asked


@pytest.mark.parametrize(
    ("switch_of", "key", "value"),
    [
        ("fp8", "training.compile", "off"),
        ("fp8", "data.packing", False),
        ("fp8", "model.quantization", "int8"),
        ("fp8", "model.compute_dtype", "float16"),
        ("fp8", "training.finetuning", "full"),
        ("fp8", "training.method", "dpo"),
        ("keep_dequantized", "training.fp8", True),
        ("keep_dequantized", "training.compile", "off"),
        ("keep_dequantized", "model.quantization", "int8"),
    ],
)
def test_what_other_settings_rule_out_is_not_asked_for(advanced, app, monkeypatch, switch_of, key, value):
    monkeypatch.setattr(launch, "card_reading", lambda: a_card((9, 0)))
    advanced.opened(None)
    switch = found(advanced, f"train_training_{switch_of}")
    app.draft.set(key, value)
    assert not switch.isVisibleTo(advanced)
    app.draft.undo()
    assert switch.isVisibleTo(advanced)


@pytest.mark.parametrize("card", [a_card((9, 0)), a_card((8, 6)), None], ids=["Hopper", "Ampere", "none"])
def test_weights_may_stay_dequantized_on_a_card(advanced, app, monkeypatch, card):
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    advanced.opened(None)
    QCoreApplication.sendPostedEvents()
    shown = advanced.findChildren(QWidget, "train_training_keep_dequantized")
    assert [switch.isVisibleTo(advanced) for switch in shown] == [True] * (card is not None)


@pytest.mark.parametrize(
    ("shape", "card", "is_asked"),
    [
        ("llama-3.1-8b", a_card((9, 0)), True),
        ("llama-3.2-1b", a_card((9, 0)), False),  # its head is the embedding
        ("llama-3.1-8b", None, False),
    ],
)
def test_an_embedding_of_its_own_may_lie_in_ram(advanced, app, monkeypatch, shape, card, is_asked):
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    monkeypatch.setattr(app.train, "shape", lambda: known_shape(shape))
    advanced.opened(None)
    QCoreApplication.sendPostedEvents()
    shown = advanced.findChildren(QWidget, "train_training_embedding_in_ram")
    assert [switch.isVisibleTo(advanced) for switch in shown] == [True] * is_asked


def test_a_click_on_fp8_is_a_setting(advanced, app, monkeypatch, qtbot):
    monkeypatch.setattr(launch, "card_reading", lambda: a_card((9, 0)))
    advanced.opened(None)
    click(qtbot, advanced, "train_training_fp8")
    assert app.draft.config.training.fp8
    click(qtbot, advanced, "train_training_fp8")
    assert not app.draft.config.training.fp8


def test_every_setting_that_is_built_has_its_field(advanced, app, monkeypatch):
    monkeypatch.setattr(launch, "card_reading", lambda: a_card((9, 0)))
    app.draft.set("data.validation", "/data/held.jsonl")
    names = {f"train_{item.key.replace('.', '_')}" for item in fields_of(RunConfig)}
    chosen_elsewhere = {"train_model_path", "train_data_path", "train_data_format", "train_training_devices"}
    chosen_elsewhere.add("train_data_target_len")  # of encoder-decoders alone: test_encoder_decoder.py
    chosen_elsewhere.add("train_training_embedding_in_ram")  # of models whose head is another matrix: above
    of_preferences = {name for name in names if name.startswith("train_preference_")}
    for name in sorted(names - chosen_elsewhere, key=of_preferences.__contains__):  # those last
        if name in of_preferences:
            app.draft.set("training.method", "dpo")
        field = found(advanced, name)
        assert field.isVisibleTo(advanced)
        assert field.accessibleDescription()


def test_simple_shows_three_settings_and_names_the_rest(ready, app, qtbot):
    with qtbot.waitSignal(app.train.changed):
        app.draft.set_many({"lora.dropout": 0.05, "training.weight_decay": 0.1})
    link = found(ready, "train_elsewhere")
    assert link.text() == "2 more settings differ from the preset. Show"
    click(qtbot, ready, "train_elsewhere")
    assert found(ready, "train_lora_dropout").isVisibleTo(ready)
    assert not link.isVisibleTo(ready)


def test_a_number_that_is_typed_moves_the_promise(advanced, app, qtbot):
    before = words(advanced, "train_promise")
    field = found(advanced, "train_lora_r")
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, "256")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert app.draft.config.lora.r == 256
    qtbot.waitUntil(lambda: words(advanced, "train_promise") != before)


def test_what_is_to_lie_in_ram_is_told_under_the_promise(advanced, app, monkeypatch, qtbot):
    ram = RamReading(total_bytes=2**36, free_bytes=2**35, load=0.0)
    monkeypatch.setattr(launch, "card_reading", lambda: a_card((9, 0)))
    monkeypatch.setattr(launch, "ram_reading", lambda: ram)
    app.draft.set_many({"training.recompute": "host", "data.seq_len": 2048, "training.batch_size": 4})
    # 30 layers of 9 MiB, which take 16 each
    said = f"Their inputs take {in_gib(30 * 2**24)} of {in_gib(2**35)} free in RAM."
    qtbot.waitUntil(lambda: said in words(advanced, "train_promise_note"))
    ram = RamReading(total_bytes=2**36, free_bytes=2**28, load=0.0)
    app.draft.set("lora.r", 8)
    over = f"Too little RAM, {in_gib(30 * 2**24 - 2**28)} over"
    qtbot.waitUntil(lambda: words(advanced, "train_promise_state") == over)


@pytest.mark.parametrize(
    ("changes", "shape", "said"),
    [
        ({"training.fp8": True}, "llama-3.1-8b", "Weights aren't kept dequantized: training.fp8 is on"),
        ({"lora.use_dora": True}, "llama-3.1-8b", "Weights aren't kept dequantized: layers aren't compiled"),
        ({"training.batch_size": 64}, "llama-3.1-8b", "Weights aren't kept dequantized: layers would have"),
        ({}, "llama-3.2-1b", "The embedding stays on the card: it's the head too."),
        ({"training.fp8": True, "data.packing": False}, "llama-3.1-8b", "in 16 bit, not in fp8: layers"),
    ],
)
def test_what_is_asked_for_and_will_not_be_is_told_under_the_promise(
    advanced, app, monkeypatch, qtbot, changes, shape, said
):
    monkeypatch.setattr(launch, "card_reading", lambda: a_card((9, 0)))
    monkeypatch.setattr(app.train, "shape", lambda: known_shape(shape))
    asked = {"training.keep_dequantized": True, "training.embedding_in_ram": True, "data.seq_len": 2048}
    app.draft.set_many(asked | changes)
    qtbot.waitUntil(lambda: said in words(advanced, "train_promise_note"))
    app.draft.undo()
    qtbot.waitUntil(lambda: said not in words(advanced, "train_promise_note"))


@pytest.mark.parametrize(
    ("key", "typed", "reason"),
    [
        ("lora.r", "999", "Rank is 999; it must be between 1 and 512."),
        ("lora.r", "-5", "Rank is -5; it must be between 1 and 512."),
        ("training.batch_size", "1,5", "Rows per step: '1,5' is no whole number."),
        ("training.steps", "999999999", "Updates is 999,999,999; it must be between 0 and 10,000,000."),
        ("data.seq_len", "0", "Sequence length is 0; it must be between 16 and 131,072."),
        ("lora.dropout", "5", "Dropout is 5; it must be between 0 and 0.9."),
        ("lora.r", "1" + 400 * "0", "Rank is 1.00e+400; it must be between 1 and 512."),
        ("training.epochs", "many", "Epochs: 'many' is no number."),
        ("training.epochs", "1,000", "Epochs: '1,000' is no number; write it without a comma."),
    ],
)
def test_a_number_that_can_not_stand_stays_as_it_was_typed_with_its_limits(
    advanced, app, qtbot, key, typed, reason
):
    before = app.draft.value(key)
    field = found(advanced, f"train_{key.replace('.', '_')}")
    _type(qtbot, field, typed)
    assert field.text() == typed
    assert field.property("problem") is True
    assert reason in words(advanced, "train_problems")
    assert reason == words(advanced, f"train_{key.replace('.', '_')}_problem")
    assert app.draft.value(key) == before


def test_a_number_is_written_with_commas_and_its_unit_and_moved_by_arrows(advanced, app, qtbot):
    field = found(advanced, "train_checkpoints_every_steps")
    _type(qtbot, field, "1200")
    assert field.text() == "1,200 steps"
    qtbot.keyClick(field, Qt.Key.Key_Up)
    assert app.draft.value("checkpoints.every_steps") == 1_201
    _type(qtbot, field, "1,500 steps")
    assert app.draft.value("checkpoints.every_steps") == 1_500


def test_the_largest_that_fits_stands_under_the_promise_and_moves_with_every_setting(advanced, app, qtbot):
    before = words(advanced, "train_promise_largest")
    assert before.startswith("Largest that fits, with more layers recomputed: ")
    app.draft.set_many({"data.seq_len": 512})
    qtbot.waitUntil(lambda: words(advanced, "train_promise_largest") != before)
    assert "of 512 tokens" in words(advanced, "train_promise_largest")


def test_a_learning_rate_is_typed_as_one_writes_it(advanced, app, qtbot):
    field = found(advanced, "train_training_learning_rate")
    _type(qtbot, field, "1e-3")
    assert app.draft.config.training.learning_rate == 0.001
    assert field.text() == "1e-3"
    _type(qtbot, field, "fast")
    assert "'fast' is no number" in words(advanced, "train_training_learning_rate_problem")
    assert app.draft.config.training.learning_rate == 0.001


def test_no_run_starts_while_a_field_holds_what_can_not_stand(advanced, app, silent, qtbot):
    field = found(advanced, "train_training_learning_rate")
    _type(qtbot, field, "3e-3")
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, "nan")
    advanced.setFocus()  # as a click on Start does before it starts
    click(qtbot, advanced, "train_start")
    assert not silent.asked(reading.PrepareRun)
    assert words(advanced, "train_waits_for") == "Start waits for: learning rate that can be used"
    assert "Learning rate is nan; it must be between 0 and 1,000,000,000." in words(
        advanced, "train_problems"
    )
    _type(qtbot, found(advanced, "train_lora_alpha"), "32")
    assert (app.draft.config.lora.alpha, field.text()) == (32, "nan")
    assert not found(advanced, "train_start").isEnabled()
    _type(qtbot, field, "1e-3")
    qtbot.waitUntil(lambda: found(advanced, "train_start").isEnabled())
    assert words(advanced, "train_training_learning_rate_problem") == ""


def test_what_is_still_being_typed_counts_for_the_start(ready, silent, qtbot):
    field = found(ready, "train_training_learning_rate")
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, "nan")
    qtbot.keyClick(field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert not silent.asked(reading.PrepareRun)


def test_what_was_refused_on_another_page_is_mended_by_what_stands_here(advanced, app, qtbot):
    app.draft.refuse("data.seq_len", "data.seq_len is 7; it must be between 16 and 131,072.")
    field = found(advanced, "train_data_seq_len")
    assert field.property("problem") is True
    field.setFocus()
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert app.draft.refusals == {}
    qtbot.waitUntil(lambda: not field.property("problem"))


def test_a_field_that_is_not_shown_is_gone_to_from_what_stands_in_the_way(ready, app, qtbot):
    app.draft.refuse("training.weight_decay", "training.weight_decay is 7; it must be between 0 and 1.")
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # the buttons of before
    click(qtbot, ready, "train_mend_0_0")
    assert ready.focusWidget() is found(ready, "train_training_weight_decay")


def test_a_button_that_changes_much_shows_all_its_words(ready, app, monkeypatch, qtbot):
    card = msgspec.structs.replace(a_card((9, 0)), total_bytes=24 * 2**30)
    monkeypatch.setattr(launch, "card_reading", lambda: card)
    monkeypatch.setattr(app.train, "shape", lambda: known_shape("llama-3.1-8b"))
    app.draft.set_many({"training.keep_dequantized": True, "training.recompute": "none"})
    said = "Keep dequantized off, Recompute None to All layers: "
    qtbot.waitUntil(lambda: found(ready, "train_mend_0_0").accessibleName().startswith(said))
    button = found(ready, "train_mend_0_0")
    assert button.text().replace("\n", " ") == button.accessibleName()
    qtbot.waitUntil(lambda: button.height() >= 2 * button.fontMetrics().height())
    assert button.width() >= button.sizeHint().width()
    click(qtbot, ready, "train_mend_0_0")
    assert not app.draft.config.training.keep_dequantized


def test_no_settings_are_saved_or_copied_while_a_field_holds_what_can_not_stand(ready, app, qtbot):
    app.draft.refuse("lora.r", "lora.r is 999; it must be between 1 and 512.")
    click(qtbot, ready, "train_copy_command")
    assert ready.banner.text() == "Rank is 999; it must be between 1 and 512."
    assert not app.notices.last


def test_a_changed_setting_shows_its_default_and_goes_back_to_it(advanced, app, qtbot):
    app.draft.set("lora.dropout", 0.05)
    back = found(advanced, "train_reset_lora_dropout")
    assert back.text() == "default 0.0"
    click(qtbot, advanced, "train_reset_lora_dropout")
    assert app.draft.config.lora.dropout == 0.0
    assert not back.isVisibleTo(advanced)


def test_a_switch_has_its_way_back_too(advanced, app, qtbot):
    box = found(advanced, "train_lora_use_dora")
    qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(10, box.height() // 2))
    assert app.draft.config.lora.use_dora
    click(qtbot, advanced, "train_reset_lora_use_dora")
    assert not app.draft.config.lora.use_dora


def test_help_follows_the_focus(advanced, qtbot):
    found(advanced, "train_lora_alpha").setFocus()
    shown = words(advanced, "train_help")
    assert "alpha / rank" in shown
    assert "lora.alpha · 1 to 1,024 · default 16" in shown


def test_looking_at_a_changed_setting_tells_its_price(advanced, app, qtbot):
    with qtbot.waitSignal(app.train.changed):
        app.draft.set("training.batch_size", 16)
    found(advanced, "train_training_batch_size").setFocus()
    assert words(advanced, "train_promise_difference").startswith("Rows per step: +")


def test_undo_takes_the_last_change_back(advanced, app):
    app.draft.set("lora.r", 16)
    assert advanced.undo()
    assert app.draft.config.lora.r == 64
    assert advanced.redo()
    assert app.draft.config.lora.r == 16
    assert not advanced.redo()


def test_a_preset_is_chosen_by_what_it_is_for(ready, app, qtbot):
    click(qtbot, ready, "train_preset_gentle_tone_change")
    assert (app.draft.config.lora.r, app.draft.config.training.learning_rate) == (16, 1e-4)
    assert app.draft.config.model.path == "/models/tiny"
    assert found(ready, "train_preset").currentText() == "Gentle tone change"
    app.draft.set("lora.r", 8)
    assert found(ready, "train_preset").currentText() == "Gentle tone change, changed"


def test_a_recipe_of_the_paper_is_chosen_by_name_and_says_what_it_was_made_for(ready, app, qtbot):
    box = found(ready, "train_preset")
    box.setCurrentText("Guanaco 65B")
    box.activated.emit(box.currentIndex())
    config = app.draft.config
    assert (config.training.steps, config.training.learning_rate, config.data.seq_len) == (1875, 1e-4, 512)
    assert (config.model.path, config.data.path) == ("/models/tiny", "/data/chats.jsonl")
    assert box.currentText() == "Guanaco 65B"
    qtbot.waitUntil(lambda: "this model is llama of 135 M" in words(ready, "train_problems"))
    assert "Guanaco 65B was made for oasst; this data is messages." in words(ready, "train_problems")
    assert not any(problem.blocks for problem in app.train.problems)


def test_one_click_gives_enough_updates(ready, app, qtbot):
    assert "only about 23 updates" in words(ready, "train_problems")
    click(qtbot, ready, "train_mend_0_0")
    qtbot.waitUntil(lambda: "Nothing stands in the way" in words(ready, "train_problems"))
    assert app.draft.config.training.gradient_accumulation < 4


def test_a_page_stays_where_it_is_when_what_was_clicked_is_mended(advanced, app, qtbot):
    advanced.window().activateWindow()
    found(advanced, "train_mend_0_0").setFocus()
    at = advanced.findChild(QScrollArea).verticalScrollBar()
    before = at.value()
    click(qtbot, advanced, "train_mend_0_0")
    qtbot.waitUntil(lambda: "Nothing stands in the way" in words(advanced, "train_problems"))
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert at.maximum() > 0 and at.value() == before
    assert advanced.window().focusWidget() is found(advanced, "train_problems")  # Tab goes on from here


def test_what_blocks_stands_under_its_field_too(ready, app, qtbot):
    app.draft.set_many({"data.seq_len": 256, "data.too_long": "stop"})
    qtbot.waitUntil(lambda: "longer than 256" in words(ready, "train_data_seq_len_problem"))
    assert not found(ready, "train_start").isEnabled()


def test_layers_are_chosen_by_their_real_names(advanced, app, qtbot):
    box = found(advanced, "train_lora_target_modules")
    box.activated.emit(_choose(box, "choose"))
    picker = _popup("train_target_picker")
    for name in ("k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        found(picker, f"train_target_{name}").click()
    qtbot.mouseClick(picker.yes, Qt.MouseButton.LeftButton)
    assert app.draft.config.lora.target_modules == ("q_proj", "v_proj")
    assert box.currentText() == "q_proj, v_proj"
    qtbot.waitUntil(lambda: "trained" in words(advanced, "train_trained"))


def test_no_layer_at_all_can_not_be_chosen(advanced, app, qtbot):
    box = found(advanced, "train_lora_target_modules")
    box.activated.emit(_choose(box, "choose"))
    picker = _popup("train_target_picker")
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        found(picker, f"train_target_{name}").click()
    assert not picker.yes.isEnabled()
    qtbot.mouseClick(picker.no, Qt.MouseButton.LeftButton)
    assert app.draft.config.lora.target_modules == "all-linear"
    assert box.currentText() == "All linear layers"


def start_from(page, app, silent, qtbot, monkeypatch, folder):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: folder)
    box = found(page, "train_lora_start_from")
    box.activated.emit(_choose(box, "choose"))
    assert app.draft.value("lora.start_from") == folder
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckStart)))
    assert silent.asked(reading.CheckStart)[0].config == app.draft.config


SHAPE_OF_ADAPTER = ("r", "alpha", "target_modules", "use_rslora", "use_dora")


def test_an_adapter_to_train_on_brings_its_shape_and_the_promise_counts_it(
    advanced, app, silent, qtbot, monkeypatch
):
    fields = [found(advanced, f"train_lora_{name}") for name in SHAPE_OF_ADAPTER]
    before = words(advanced, "train_promise")
    start_from(advanced, app, silent, qtbot, monkeypatch, "/runs/support/adapter")
    assert app.train.waits_for == "Checking the adapter"
    assert not any(field.isVisibleTo(advanced) for field in fields)
    lora = with_changes(RunConfig(), {"lora.r": 256}).lora
    silent.answer(reading.CheckStart, reading.StartChecked, lora=lora, words="rank 256, alpha 16, all")
    qtbot.waitUntil(lambda: words(advanced, "train_promise") != before)
    shown = [label.text() for label in advanced.findChildren(QLabel) if label.isVisibleTo(advanced)]
    assert "rank 256, alpha 16, all, as the adapter has them" in shown
    assert found(advanced, "train_lora_start_from").currentText() == "support"
    assert app.train.waits_for == ""
    click(qtbot, advanced, "train_reset_lora_start_from")
    qtbot.waitUntil(lambda: words(advanced, "train_promise") == before)
    assert all(field.isVisibleTo(advanced) for field in fields)


def test_ranks_and_layers_are_typed_and_the_promise_counts_them(advanced, app, qtbot):
    whole = words(advanced, "train_trained")
    _type(qtbot, found(advanced, "train_lora_layers"), "0-9, 29")
    _type(qtbot, found(advanced, "train_lora_ranks"), "q_proj = 16, 29.mlp.down_proj=128")
    assert app.draft.config.lora.layers == "0-9, 29"
    assert app.draft.config.lora.ranks == {"q_proj": 16, "29.mlp.down_proj": 128}
    qtbot.waitUntil(lambda: words(advanced, "train_trained") not in ("", whole))
    assert found(advanced, "train_lora_ranks").text() == "q_proj=16, 29.mlp.down_proj=128"
    assert app.train.waits_for == ""
    click(qtbot, advanced, "train_reset_lora_ranks")
    assert found(advanced, "train_lora_ranks").text() == ""
    assert app.draft.config.lora.ranks == {}


@pytest.mark.parametrize(
    ("field", "typed", "said", "waits"),
    [
        ("ranks", "q_proj 16", "write it as q_proj=16, down_proj=128.", "own ranks that can be used"),
        ("ranks", "q_proj=0", "it must be between 1 and 512", "own ranks that can be used"),
        ("ranks", "fc1=8", "names 'fc1', and no layer of that name", "own ranks that this model has"),
        ("layers", "first", "it must be all, or numbers and ranges", "layer numbers that can be used"),
        ("layers", "20-40", "this model's 30 layers", "layer numbers that this model has"),
    ],
)
def test_layers_that_are_not_there_block_with_their_reason(advanced, app, qtbot, field, typed, said, waits):
    box = found(advanced, f"train_lora_{field}")
    _type(qtbot, box, typed)
    qtbot.waitUntil(lambda: app.train.waits_for == waits)
    assert said in words(advanced, f"train_lora_{field}_problem")
    assert box.text() == typed


def test_a_file_of_questions_is_chosen_and_taken_back(advanced, app, qtbot, monkeypatch):
    box = found(advanced, "train_checkpoints_questions")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("/data/five_shot.json", ""))
    box.activated.emit(_choose(box, "choose"))
    assert app.draft.value("checkpoints.questions") == "/data/five_shot.json"
    assert box.currentText() == "five_shot.json"
    click(qtbot, advanced, "train_checkpoints_evaluate_letters")
    assert not app.draft.value("checkpoints.evaluate_letters")  # one kind is counted
    assert "can't stand together" in app.draft.refusals["checkpoints.evaluate_letters"]
    click(qtbot, advanced, "train_reset_checkpoints_questions")
    assert (app.draft.value("checkpoints.questions"), box.currentText()) == ("", "None")


def test_an_adapter_that_can_not_be_trained_on_blocks_until_a_new_one_is_taken(
    advanced, app, silent, qtbot, monkeypatch
):
    start_from(advanced, app, silent, qtbot, monkeypatch, "/else/adapter")
    silent.refuse(reading.CheckStart, "/else/adapter is no adapter.", "Choose another one.")
    qtbot.waitUntil(lambda: app.train.waits_for == "an adapter that can be trained on")
    assert "/else/adapter is no adapter." in words(advanced, "train_lora_start_from_problem")
    advanced._on_mend(next(problem for problem in app.train.problems if problem.blocks).mends[0])
    qtbot.waitUntil(lambda: app.train.waits_for == "")
    assert app.draft.value("lora.start_from") == ""


def test_simple_names_the_adapter_that_is_trained_on_in_place_of_the_rank(ready, app):
    rank = found(ready, "train_lora_r")
    assert rank.isVisibleTo(ready)
    assert ready.findChild(QWidget, "train_lora_start_from") is None
    app.draft.set("lora.start_from", "/runs/support")
    assert not rank.isVisibleTo(ready)
    assert found(ready, "train_lora_start_from").isVisibleTo(ready)
    app.draft.use_preset(app.draft.presets[-1])
    assert app.draft.value("lora.start_from") == "/runs/support"


def test_prompts_of_the_data_are_shown_and_one_that_is_changed_is_kept(advanced, app, silent, qtbot):
    click(qtbot, advanced, "train_samples_edit")
    silent.answer(reading.SuggestSamples, reading.SamplesSuggested, prompts=("Why?", "How?", "When?"))
    first = found(advanced, "train_samples_0")
    assert first.toPlainText() == "Why?"
    first.setFocus()
    first.selectAll()
    qtbot.keyClicks(first, "Why not?")
    found(advanced, "train_samples_1").setFocus()
    assert [sample.prompt for sample in app.draft.config.samples] == ["Why not?", "How?", "When?"]
    qtbot.waitUntil(lambda: "3 of your own" in words(advanced, "train_samples_words"))
    click(qtbot, advanced, "train_samples_from_data")
    assert app.draft.config.samples == ()


def test_the_copied_command_names_a_file_with_these_settings(ready, app, qtbot):
    click(qtbot, ready, "train_copy_command")
    qtbot.waitUntil(lambda: bool(app.notices.last))
    command = QGuiApplication.clipboard().text()
    assert command == words(ready, "train_command")
    assert read_run_config(Path(command.split()[2])) == app.draft.config


def test_settings_are_saved_to_a_file_and_opened_from_one(ready, app, qtbot, tmp_path, monkeypatch):
    file = str(tmp_path / "mine.toml")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (file, ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (file, ""))
    ready.setFocus()
    qtbot.keyClick(ready, "s", Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: bool(app.notices.last))
    app.draft.set("lora.r", 8)
    qtbot.keyClick(ready, "o", Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: app.draft.config.lora.r == 64)


def test_a_file_that_can_not_stand_is_told_in_the_banner(ready, app, qtbot, tmp_path, monkeypatch):
    (tmp_path / "bad.toml").write_text("[lora]\nr = 0\n")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "bad.toml"), ""))
    ready.setFocus()
    qtbot.keyClick(ready, "o", Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: "lora.r is 0" in ready.banner.text())


def test_settings_of_another_run_are_shown(ready, app):
    ready.opened(with_changes(RunConfig(), {"lora.r": 24, "model.path": "/models/tiny"}))
    assert found(ready, "train_lora_r").value() == 24


def test_start_prepares_the_run_and_opens_its_monitor(ready, app, silent, asked, qtbot):
    _type(qtbot, found(ready, "train_name"), "my-run")
    click(qtbot, ready, "train_start")
    prepare = silent.asked(reading.PrepareRun)[0]
    assert (prepare.name, prepare.config) == ("my-run", app.draft.config)
    assert asked == [("monitor", None)]
    assert found(ready, "train_cancel").isVisibleTo(ready)
    silent.answer(
        reading.PrepareRun,
        reading.RunPrepared,
        run="/runs/2026-my-run",
        steps=23,
        train_rows=2_850,
        validation_rows=150,
        learned_tokens=1,
        report=import_report(),
        promise_bytes={},
    )
    assert silent.last_said(commands.Train).run == "/runs/2026-my-run"
    qtbot.waitUntil(lambda: app.train.name == "chats-tiny")


def test_a_start_can_be_cancelled_before_the_engine_trains(ready, silent, qtbot):
    click(qtbot, ready, "train_start")
    click(qtbot, ready, "train_cancel")
    assert not silent.asked(reading.PrepareRun)
    assert found(ready, "train_start").isEnabled()


def test_a_start_that_is_refused_comes_back_with_the_reason(ready, silent, asked, qtbot):  # R9
    click(qtbot, ready, "train_start")
    silent.refuse(reading.PrepareRun, "This run needs 4.2 GB; 1.2 GB of it is missing.", "Free some space.")
    assert ready.banner.text() == "This run needs 4.2 GB; 1.2 GB of it is missing. Free some space."
    assert asked[-1] == ("train", None)


def test_a_start_that_is_cancelled_comes_back_here(ready, app, silent, asked, qtbot):
    click(qtbot, ready, "train_start")
    assert "Start waits for: reading the data" in words(ready, "train_problems")
    app.launcher.cancel()
    assert silent.asked(reading.PrepareRun) == []
    assert asked[-1] == ("train", None)
    assert found(ready, "train_start").isEnabled()


def test_a_start_from_another_page_is_told_there(ready, app, silent, asked, qtbot):
    app.launcher.start_sample_run()
    app.launcher.failed.emit(Problem("The disk is full."))
    assert ready.banner.isHidden()
    assert asked == []


def test_control_and_enter_starts_and_control_d_changes_the_mode(ready, silent, qtbot):
    ready.setFocus()
    qtbot.keyClick(ready, "d", Qt.KeyboardModifier.ControlModifier)
    assert found(ready, "train_mode").value() == "advanced"
    qtbot.keyClick(ready, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert silent.asked(reading.PrepareRun)


def _type(qtbot, field, text):
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, text)
    qtbot.keyClick(field, Qt.Key.Key_Return)


def _choose(box, value):
    """As a click on an entry of the list would. Gives its place."""
    box.setCurrentIndex(box.findData(value))
    return box.currentIndex()


def _click_on(box, value):
    box.activated.emit(_choose(box, value))


def _popup(name):
    return next(widget for widget in QApplication.topLevelWidgets() if widget.objectName() == name)


def test_ranks_are_compared_with_these_settings(ready, app, silent, asked, qtbot):
    action = next(item for item in ready.menu.actions() if item.text().startswith("Compare"))
    action.trigger()
    question = QApplication.activePopupWidget() or ready.window().findChild(QWidget, "train_compare")
    question.findChild(QWidget, "train_compare_seeds").setValue(3)
    qtbot.mouseClick(question.findChild(QWidget, "train_compare_yes"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.PrepareRun)))
    request = silent.asked(reading.PrepareRun)[0]
    assert (request.config.lora.r, request.config.data.path) == (8, "/data/chats.jsonl")
    assert request.name == "Rank: tiny r = 8 seed 0"
    assert len(app.sweep.opened.results) == 18
    assert asked == [("runs", None)]


def test_what_all_weights_learn_at_is_said_before_they_are_compared(ready, app, silent, asked, qtbot):
    action = next(item for item in ready.menu.actions() if item.text().startswith("Compare"))
    action.trigger()
    question = QApplication.activePopupWidget() or ready.window().findChild(QWidget, "train_compare")
    rate = question.findChild(QWidget, "train_compare_full")
    assert not rate.isVisibleTo(question)
    _click_on(question.findChild(QWidget, "train_compare_over"), "finetuning")
    assert rate.text() == "All weights learn at 1/10 of the learning rate that is set for the adapters."
    assert rate.isVisibleTo(question)
    qtbot.mouseClick(question.findChild(QWidget, "train_compare_yes"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.PrepareRun)))
    config = silent.asked(reading.PrepareRun)[0].config
    assert config.trains_all
    assert config.training.learning_rate == pytest.approx(2e-5)
    assert len(app.sweep.opened.results) == 3


def test_what_adapters_learn_at_is_said_where_all_weights_are_set(ready, app, qtbot):
    app.draft.set_many({"training.finetuning": "full", "model.quantization": "none"})
    action = next(item for item in ready.menu.actions() if item.text().startswith("Compare"))
    action.trigger()
    question = QApplication.activePopupWidget() or ready.window().findChild(QWidget, "train_compare")
    _click_on(question.findChild(QWidget, "train_compare_over"), "finetuning")
    words_said = question.findChild(QWidget, "train_compare_full").text()
    assert words_said == "Adapters learn at 10 times the learning rate that is set for all weights."
    question.close()


def test_the_rate_of_an_adapter_is_mended_to_that_of_all_weights(advanced, app, qtbot):
    _click_on(found(advanced, "train_training_finetuning"), "full")
    qtbot.waitUntil(lambda: "is high where all weights learn" in words(advanced, "train_problems"))
    mend = next(mend for problem in app.train.problems for mend in problem.mends if mend.changes)
    assert mend.words == "Learning rate 2e-05"
    app.draft.set_many(mend.changes)
    qtbot.waitUntil(lambda: "is high" not in words(advanced, "train_problems"))
