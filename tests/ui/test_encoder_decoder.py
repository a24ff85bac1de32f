"""An encoder-decoder in the window: source and target have a limit each; what it doesn't do isn't shown."""

from pathlib import Path

import msgspec
import pytest
from PySide6.QtWidgets import QApplication, QComboBox, QWidget

from qlora_studio.config.run_config import RunConfig, TrainingConfig
from qlora_studio.config.setting import value_of
from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import clean_values
from qlora_studio.models.tensor_plan import tensor_plan
from qlora_studio.protocol import reading
from qlora_studio.protocol.sweep_plan import new_sweep
from qlora_studio.ui.pages.train import NOT_OF_ENCODER_DECODERS, TrainPage
from qlora_studio.ui.theme import theme
from tests.reader.whole_t5 import CONFIG
from tests.state.reports import counted, import_report, model_report
from tests.ui.clipped import clipped
from tests.ui.filled_pages import DATA
from tests.ui.person import click, found, words

pytestmark = pytest.mark.usefixtures("no_card_but_memory")

SHAPE = tensor_plan(*clean_values(CONFIG, Path("config.json"))).shape()
SOURCES, TARGETS = [20 + row % 200 for row in range(300)], [5 + row % 50 for row in range(300)]


@pytest.fixture
def uncounted(app, silent, qtbot):
    """A T5 and 300 rows."""
    app.draft.set_many({"model.path": "/models/tiny", "data.path": "/data/chats.jsonl"})
    page = TrainPage(app).whole()
    qtbot.addWidget(page)
    page.resize(1300, 900)
    page.show()
    page.opened(None)
    report = model_report(family="t5", shape=SHAPE, parameters=SHAPE.parameters)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=report)
    told = import_report(conversations=300)
    silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=told)
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    return page


@pytest.fixture
def page(uncounted, app, silent, qtbot, tmp_path):
    """The same, counted."""
    rows = [source + 1 + target for source, target in zip(SOURCES, TARGETS, strict=True)]
    answer = counted(tmp_path, rows, TARGETS) | {
        "has_source": True,
        "longest_source": max(SOURCES),
        "longest_target": max(TARGETS),
    }
    silent.answer(reading.CountTokens, reading.TokensCounted, **answer)
    qtbot.waitUntil(lambda: app.train.counts.counted is not None and bool(app.train.problems))
    return uncounted


def test_targets_have_a_limit_of_their_own_beside_that_of_sources(page, app, qtbot):
    field = found(page, "train_data_target_len")
    assert field.isVisibleTo(page)
    assert "rows aren't packed" in words(page, "train_source_and_target")
    assert "chat's last answer" in words(page, "train_source_and_target")

    app.draft.set_many({"data.seq_len": 219, "data.target_len": 54})
    qtbot.waitUntil(lambda: app.train.kept().longer == 0)
    app.draft.set("data.target_len", 30)

    qtbot.waitUntil(lambda: app.train.kept().longer == sum(target > 30 for target in TARGETS))


def test_what_an_encoder_decoder_has_one_way_of_is_not_asked(page, app, qtbot):
    click(qtbot, page, "train_mode_advanced")
    hidden = [f"train_{key.replace('.', '_')}" for key in NOT_OF_ENCODER_DECODERS]
    shown = [page.findChild(QWidget, name) for name in hidden]
    assert not any(field is not None and field.isVisibleTo(page) for field in shown)
    assert found(page, "train_lora_r").isVisibleTo(page)


def test_a_causal_model_has_no_target_length(page, app, silent, qtbot):
    app.draft.set("model.path", "/models/other")
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckModel)))
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report("/models/other"))

    qtbot.waitUntil(lambda: not found(page, "train_data_target_len").isVisibleTo(page))

    assert not found(page, "train_source_and_target").isVisibleTo(page)
    click(qtbot, page, "train_mode_advanced")
    for name in ("train_data_packing", "train_training_method", "train_lora_layers", "train_lora_start_from"):
        assert found(page, name).isVisibleTo(page)


def test_a_method_that_it_cannot_learn_by_blocks_the_start_with_the_way_on(page, app, qtbot):
    app.draft.set("training.method", "dpo")
    qtbot.waitUntil(lambda: "can't be trained by dpo" in words(page, "train_problems"))
    assert not found(page, "train_start").isEnabled()

    app.draft.set_many({"training.method": "sft", "data.train_on": "everything"})

    qtbot.waitUntil(lambda: "learns its targets alone" in words(page, "train_problems"))


@pytest.mark.parametrize(("key", "value"), [("lora.layers", "0-1"), ("lora.ranks", {"q": 4})])
def test_layers_that_were_named_for_another_model_are_made_alike_by_one_button(page, app, qtbot, key, value):
    app.draft.set(key, value)
    qtbot.waitUntil(lambda: "all its layers are alike" in words(page, "train_problems"))
    assert not found(page, "train_start").isEnabled()
    (mend,) = next(problem for problem in app.train.problems if problem.key == key).mends
    assert mend.words == "Make all layers alike"

    app.draft.set_many(mend.changes)

    qtbot.waitUntil(lambda: "all its layers are alike" not in words(page, "train_problems"))
    assert app.draft.value(key) == value_of(RunConfig(), key)


def test_both_limits_are_raised_by_one_button(page, app, qtbot):
    app.draft.set_many({"data.seq_len": 64, "data.target_len": 16})
    qtbot.waitUntil(lambda: "64 tokens of source or 16 of target" in words(page, "train_problems"))
    (mend,) = {mend.words: mend for problem in app.train.problems for mend in problem.mends
               if "data.target_len" in mend.changes}.values()  # fmt: skip
    assert mend.words == "Raise to 256 of source, 64 of target"
    assert mend.changes == {"data.seq_len": 256, "data.target_len": 64}

    app.draft.set("data.seq_len", 256)
    qtbot.waitUntil(lambda: "256 tokens of source or 16 of target" in words(page, "train_problems"))
    (problem,) = [problem for problem in app.train.problems if problem.key == "data.target_len"]
    assert [mend.words for mend in problem.mends][:1] == ["Raise to 64 of target"]


def test_updates_are_counted_row_by_row(page, app, qtbot):
    app.draft.set_many(
        {"training.batch_size": 3, "training.gradient_accumulation": 1, "data.validation": 0.0}
    )
    qtbot.waitUntil(lambda: app.train.updates() == 100)


def test_a_file_without_targets_says_so_and_leads_to_other_data(uncounted, app, silent, qtbot, tmp_path):
    answer = counted(tmp_path, [0] * 300) | {"has_source": True}
    refused = "It is a row without a target. An encoder-decoder is trained on questions with answers."
    answer["lengths"] = msgspec.structs.replace(answer["lengths"], refused=refused)
    silent.answer(reading.CountTokens, reading.TokensCounted, **answer)

    qtbot.waitUntil(lambda: "without a target" in words(uncounted, "train_problems"))

    assert not found(uncounted, "train_start").isEnabled()
    (problem,) = [problem for problem in app.train.problems if problem.blocks]
    assert [mend.page for mend in problem.mends] == ["data"]


@pytest.fixture
def window(filler):
    """The whole window, with a T5 and its rows counted; limits that aren't the default say so beside them."""
    app, silent = filler.app, filler.silent
    limits = {"data.seq_len": 64, "data.target_len": 32}
    app.draft.set_many({"model.path": "/models/flan-t5-large", "data.path": DATA, **limits})
    filler.shell.open_page("train")
    report = model_report(family="t5", shape=SHAPE, parameters=SHAPE.parameters)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=report)
    silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=import_report(DATA))
    filler.qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
    _count(filler)
    yield filler
    theme().set_text_size(100)


def _count(filler):
    rows = [source + 1 + target for source, target in zip(SOURCES, TARGETS, strict=True)]
    answer = counted(filler.folder, rows, TARGETS) | {"has_source": True, "longest_source": 219}
    filler.silent.answer(reading.CountTokens, reading.TokensCounted, **answer)


@pytest.mark.parametrize("text_size", [100, 200])
@pytest.mark.parametrize("size", [(1440, 900), (1280, 800), (1024, 600)])
@pytest.mark.parametrize("name", ["train", "data"])
def test_limits_of_sources_and_targets_are_whole(window, name, size, text_size):
    page = window.shell.open_page(name)
    if name == "data":
        silent = window.silent
        silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=import_report(DATA))
        window.qtbot.waitUntil(lambda: bool(silent.asked(reading.CountTokens)))
        _count(window)
        window.qtbot.waitUntil(lambda: words(page, "data_target_len") != "")
    theme().set_text_size(text_size)
    window.shell.resize(*size)
    window.qtbot.waitUntil(lambda: clipped(window.shell) == [])


def test_what_can_not_be_compared_with_it_is_not_offered(page, tmp_path):
    (action,) = (action for action in page.menu.actions() if action.text().startswith("Compare"))
    assert action.text() == "Compare ranks, layers or precision…"
    action.trigger()
    question = QApplication.activePopupWidget() or page.window().findChild(QWidget, "train_compare")
    box = question.findChild(QComboBox, "train_compare_over")
    listed = [box.itemData(row) for row in range(box.count())]
    assert listed == ["ranks", "layers", "precision"]
    config = RunConfig(training=TrainingConfig(steps=1))
    for over in listed:
        assert new_sweep(config, SHAPE, over=over, runs_dir=tmp_path).points
    with pytest.raises(StudioError):
        new_sweep(config, SHAPE, over="finetuning", runs_dir=tmp_path)
