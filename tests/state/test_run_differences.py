"""What differs between runs, in the words of the form."""

from __future__ import annotations

import pytest

from qlora_studio.runs.folder import open_run
from qlora_studio.state.run_differences import as_text, differences, short_names, what_is_the_same
from tests.ui.example_runs import Example, make_run


@pytest.fixture
def runs(home):
    made = (
        Example(name="support-llama8b-r64", steps=400, end="finished", loss=0.9),
        Example(name="support-llama8b-r16", steps=400, end="finished", loss=0.95, changes={"lora.r": 16}),
        Example(
            name="support-qwen7b-r64", model="Qwen2.5-7B", steps=400, end="finished", loss=1.0,
            changes={"training.learning_rate": 1.5e-4, "training.schedule": "cosine"},
        ),
    )  # fmt: skip
    return [open_run(make_run(home / "runs", example)) for example in made]


@pytest.fixture
def rows(runs):
    return {row.label: row for row in differences(runs, [671_000_000, None, 646_000])}


def test_a_setting_that_differs_is_marked_where_it_is_unlike_the_others(rows):
    assert rows["Rank"].values == ("64", "16", "64")
    assert rows["Rank"].marked == (False, True, False)
    assert rows["Learning rate"].values == ("2e-4", "2e-4", "1.5e-4")
    assert rows["Schedule"].values == ("Constant", "Constant", "Cosine to 0")
    assert rows["Model"].marked == (False, False, True)


def test_settings_that_are_the_same_say_so(rows):
    assert not rows["Alpha"].differs
    assert rows["Rank"].differs


def test_the_best_result_says_best(rows):
    assert rows["Evaluation loss"].words()[0].endswith(" best")
    assert rows["Evaluation loss"].marked == (True, False, False)


def test_the_result_on_disk_is_in_units_of_files(rows):
    assert rows["Result on disk"].values == ("671 MB", "", "646 kB")


def test_losses_on_different_data_are_not_comparable(runs, home):
    other = open_run(make_run(home / "runs", Example(steps=10, changes={"data.path": "other.jsonl"})))
    assert what_is_the_same(runs) == "Data and seed are the same"
    assert "can't be compared" in what_is_the_same([*runs, other])


def test_as_text_it_goes_into_any_table(runs):
    text = as_text(differences(runs, [None, None, None]), short_names([run.name for run in runs]))
    assert text.splitlines()[0] == "Setting\tllama8b-r64\tllama8b-r16\tqwen7b-r64"
    assert "Rank\t64\t16\t64" in text.splitlines()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["support-a-1", "support-b-1"], ["a-1", "b-1"]),
        (["run", "run-2"], ["run", "run-2"]),
        (["same", "same"], ["same", "same"]),
        (["alone-1"], ["alone-1"]),
        ([], []),
    ],
)
def test_names_lose_what_they_share_at_their_beginning(names, short):
    assert short_names(names) == short


def test_the_result_is_an_adapter_or_a_whole_model(app, qtbot):
    full = {"training.finetuning": "full", "model.quantization": "none"}
    adapter = make_run(app.preferences.runs_folder, Example(name="lora", steps=10, end="finished"))
    model = make_run(
        app.preferences.runs_folder, Example(name="full", steps=10, end="finished", changes=full)
    )
    (adapter / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 2_000)
    (model / "model" / "model-00001-of-00002.safetensors").write_bytes(b"x" * 3_000)
    (model / "model" / "model-00002-of-00002.safetensors").write_bytes(b"x" * 4_000)
    app.runs.refresh()
    qtbot.waitUntil(lambda: len(app.runs.table.runs) == 2)
    for folder in (adapter, model):
        app.runs.table.toggle(app.runs.table.row_of(folder))
    qtbot.waitUntil(lambda: all(item.points is not None for item in app.runs.compared()))
    rows = {row.label: row for row in app.runs.differences(only_different=False)}
    assert rows["Result on disk"].values == ("2 kB", "7 kB")
