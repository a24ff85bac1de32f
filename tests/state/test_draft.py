"""The run that is being put together is always one that could start."""

import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.state.draft import RunDraft


@pytest.fixture
def draft(qapp):
    return RunDraft()


def test_a_value_within_its_limits_stands(draft, qtbot):
    with qtbot.waitSignal(draft.changed):
        assert draft.set("lora.r", 16)

    assert draft.config.lora.r == 16


def test_a_value_outside_its_limits_is_refused_with_the_reason(draft, qtbot):
    with qtbot.waitSignal(draft.refused) as refused:
        assert not draft.set("lora.r", 0)

    assert refused.args == ["lora.r", "lora.r is 0; it must be between 1 and 512."]
    assert draft.config == RunConfig()


def test_what_was_refused_stays_known_until_its_own_key_stands_again(draft, qtbot):
    draft.set("lora.r", 0)
    draft.set("lora.alpha", 32)
    assert list(draft.refusals) == ["lora.r"]
    with qtbot.waitSignal(draft.changed):
        draft.set("lora.r", draft.value("lora.r"))
    assert draft.refusals == {}


def test_a_whole_config_leaves_nothing_refused(draft, qtbot):
    draft.set("lora.r", 0)
    with qtbot.waitSignal(draft.changed):
        draft.replace(draft.config)
    assert draft.refusals == {}


def test_a_change_is_undone_and_redone(draft):
    draft.set("lora.r", 16)
    draft.set("lora.r", 32)

    draft.undo()
    assert draft.config.lora.r == 16
    draft.redo()
    assert draft.config.lora.r == 32


def test_what_differs_from_the_default_is_named(draft):
    draft.set_many({"lora.r": 16, "training.epochs": 3.0, "model.path": "some/model"})

    assert draft.changed_keys() == ["lora.r", "training.epochs"]


def test_a_preset_leaves_model_and_data_as_chosen(draft):
    draft.set_many({"model.path": "some/model", "data.path": "chats.jsonl"})

    draft.use_preset(draft.presets[-1])

    assert (draft.config.model.path, draft.config.data.path) == ("some/model", "chats.jsonl")
    assert draft.changed_keys() == []


def test_the_encoding_of_a_held_out_file_goes_with_the_file(draft):
    draft.set_many({"data.validation": "/data/held.jsonl", "data.validation_encoding": "big5"})

    assert draft.set("data.validation", 0.1)
    assert draft.value("data.validation_encoding") == "auto"


def test_an_encoding_without_a_held_out_file_is_refused_with_its_reason(draft, qtbot):
    with qtbot.waitSignal(draft.refused) as refused:
        draft.set("data.validation_encoding", "big5")

    assert "data.validation names none" in refused.args[1]


def test_all_weights_are_trained_in_16_bit_and_4_bit_ones_by_an_adapter(draft):
    draft.set("training.finetuning", "full")
    assert draft.value("model.quantization") == "none"
    draft.set("model.quantization", "nf4")
    assert draft.value("training.finetuning") == "lora"
    draft.set("training.finetuning", "full")
    draft.set("lora.start_from", "/runs/support/adapter")
    assert draft.value("training.finetuning") == "lora"
    draft.set("training.finetuning", "full")
    assert draft.value("lora.start_from") == ""
    draft.set("training.method", "dpo")
    assert draft.value("training.finetuning") == "lora"
