"""The models on disk: each checked once, its reason kept, its promise as the last settings ask."""

from __future__ import annotations

import itertools

import pytest
from PySide6.QtTest import QSignalSpy

from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.memory.devices import RamReading
from qlora_studio.protocol import commands, events, reading
from qlora_studio.state import launch
from tests.state.reports import model_report

GIB = 2**30

pytestmark = pytest.mark.usefixtures("no_card")


@pytest.fixture
def models(app):
    return app.models


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    return path


def test_the_table_is_a_sound_model(models, qtmodeltester):
    qtmodeltester.check(models.table)


def test_the_sample_is_usable_before_it_is_unpacked(models, silent, qtbot):
    _look(models, qtbot)
    assert models.entry().path == SAMPLE
    assert models.entry().usable
    assert not silent.asked(reading.CheckModel)
    assert next(name for name, _ in models.promises()) == "QLoRA paper"


def test_a_folder_that_is_added_is_chosen_and_checked(models, silent, folder):
    models.add_folder(folder)
    assert models.chosen == str(folder)
    assert models.entry().words == "Checking"
    silent.tell_progress(reading.CheckModel, 14, 291, "Checking tensors")
    assert models.entry().words == "Checking tensors: 14 of 291"
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    assert models.entry().usable
    assert models.entry().promised.fits in (True, False)
    assert _cells(models, 0)[:2] == ["tiny", "0.27 GB"]


def test_a_folder_that_was_refused_keeps_its_row_and_its_reason(models, silent, folder):  # S3, S4
    models.add_folder(folder)
    silent.refuse(reading.CheckModel, f"{folder}/model.safetensors is cut short.", "Get it again.")
    assert not models.entry().usable
    assert models.entry().problem.hint == "Get it again."
    assert _cells(models, 0)[-1] == "not usable"
    assert models.promises() == []


def test_each_model_is_checked_once_and_again_on_demand(models, silent, folder, qtbot):
    models.add_folder(folder)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    _look(models, qtbot)
    assert not silent.asked(reading.CheckModel)
    _look(models, qtbot, again=True)
    assert len(silent.asked(reading.CheckModel)) == 1


def test_folders_of_the_models_folder_are_listed(models, qtbot):
    (places.models_folder() / "llama").mkdir(parents=True)
    _look(models, qtbot)
    assert [entry.name for entry in models.table.entries] == ["SmolLM2-135M-Instruct", "llama"]
    assert not models.can_forget(str(places.models_folder() / "llama"))


def test_a_forgotten_model_is_off_the_list_and_its_check_given_up(models, silent, folder, app):
    models.add_folder(folder)
    models.forget(str(folder))
    assert models.table.entries == []
    assert not silent.asked(reading.CheckModel)
    assert app.preferences.values.models == []
    assert folder.is_dir()
    assert models.chosen == SAMPLE


def test_used_for_training_it_is_the_models_path_of_the_draft(models, folder, app):
    models.add_folder(folder)
    models.use()
    assert app.draft.config.model.path == str(folder)


def test_the_sample_is_unpacked_on_demand_and_then_checked(models, silent, qtbot):
    _look(models, qtbot)
    models.unpack_sample()
    silent.hear(events.LoadingProgress(done=3, total=272, words="Unpacking the sample model"))
    assert models.entry().words == "Unpacking the sample model: 3 of 272"
    places.sample_model_folder().mkdir(parents=True)
    (places.sample_model_folder() / "config.json").write_text("{}")
    made = silent.last_said(commands.MakeSampleModel)
    silent.hear(events.SampleModelReady(id=made.id, folder="f"))
    assert silent.asked(reading.CheckModel)[0].folder == str(places.sample_model_folder())


def test_a_sample_that_can_not_be_unpacked_says_why(models, silent, qtbot):
    _look(models, qtbot)
    models.unpack_sample()
    made = silent.last_said(commands.MakeSampleModel)
    problem = events.Problem("0.3 GB is missing on the disk.", "Free some space.")
    silent.hear(events.CommandFailed(id=made.id, error=problem))
    assert models.entry().problem == problem


def test_the_list_and_the_presets_promise_for_the_same_room(models, silent, folder, monkeypatch):
    free = itertools.count(6 * GIB, -GIB)
    monkeypatch.setattr(launch, "card_reading", lambda: None)
    monkeypatch.setattr(
        launch, "ram_reading", lambda: RamReading(total_bytes=8 * GIB, free_bytes=next(free), load=0.0)
    )
    models.add_folder(folder)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    preset = models._draft.preset
    assert preset.config.training == models._draft.config.training
    promised = dict(models.promises())[preset.name]
    assert promised.free_bytes == models.entry().promised.free_bytes
    assert promised.total == models.entry().promised.total


def test_fits_follows_the_settings_of_the_next_run(models, silent, folder, app, qtbot):
    models.add_folder(folder)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(folder))
    before = models.entry().promised.total
    app.draft.set_many({"data.seq_len": 256, "training.batch_size": 1})
    _look(models, qtbot)
    assert models.entry().promised.total < before


def _look(models, qtbot, again=False):
    changed = QSignalSpy(models.changed)
    models.look(again)
    qtbot.waitUntil(lambda: changed.count() > 0)


def _cells(models, row):
    table = models.table
    return [table.data(table.index(row, column)) for column in range(table.columnCount())]
