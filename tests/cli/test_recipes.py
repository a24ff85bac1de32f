"""Recipes in the terminal: listed with what they need, and trained on a model and data of one's own."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from qlora_studio.cli.main import parse, run_command
from qlora_studio.cli.recipes import chosen_recipe, recipe_notes, recipe_settings
from qlora_studio.cli.room import Room
from qlora_studio.config.recipes import recipe_named
from qlora_studio.memory.devices import device_name
from qlora_studio.memory.measured import remember_speed
from qlora_studio.models.shapes import known_shape

SVG = "{http://www.w3.org/2000/svg}"


def run(*words: str) -> int:
    return run_command(parse(words))


def settings(*words: str):
    arguments = parse(("train", "--recipe", "guanaco-7b", *words))
    return recipe_settings(chosen_recipe(arguments), arguments)


def test_each_is_listed_with_its_promise_for_a_card(capsys):
    assert run("recipes", "--card", "48", "--json") == 0
    found = {item["recipe"]: item for item in json.loads(capsys.readouterr().out)["recipes"]}
    assert len(found) == 16
    assert found["guanaco-7b"]["verdict"] == found["guanaco-33b"]["verdict"] == "fits"
    assert found["guanaco-65b"]["verdict"] == "tight"  # the optimizer's pages move to RAM
    assert found["guanaco-7b"]["seconds_at_most"] is None


def test_a_person_reads_updates_and_that_no_speed_was_measured(capsys):
    assert run("recipes", "--card", "24") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("guanaco-65b"))
    assert "too large" in line
    assert "1,875 updates  time: not measured here yet" in line


def test_once_a_speed_was_measured_the_time_is_said(capsys, monkeypatch):
    monkeypatch.setattr("qlora_studio.cli.recipes.device_name", lambda device: "some card")
    remember_speed("some card", known_shape("llama-7b"), "nf4", 4000.0)
    assert run("recipes", "--json") == 0
    found = {item["recipe"]: item for item in json.loads(capsys.readouterr().out)["recipes"]}
    assert found["guanaco-7b"]["seconds_at_most"] == pytest.approx(1875 * 16 * 512 / 4000)
    assert device_name("cpu") != "some card"


def test_a_recipe_in_fp8_is_given_the_time_of_runs_in_fp8(capsys, monkeypatch):
    monkeypatch.setattr("qlora_studio.cli.recipes.device_name", lambda device: "some card")
    monkeypatch.setattr("qlora_studio.cli.recipes.room_here", lambda: Room("cuda", 80 * 2**30))
    remember_speed("some card", known_shape("llama-7b"), "nf4", 4000.0)

    def seconds() -> float | None:
        changes = ("--set", "data.packing=true", "--set", "training.fp8=true")
        assert run("recipes", "guanaco-7b", *changes, "--json") == 0
        return json.loads(capsys.readouterr().out)["recipes"][0]["seconds_at_most"]

    assert seconds() is None
    remember_speed("some card", known_shape("llama-7b"), "nf4", 5000.0, fp8=True)
    assert seconds() == pytest.approx(1875 * 16 * 512 / 5000)


def test_model_and_data_are_the_persons_own_and_single_settings_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings("--model", "mine", "--data", "chats.jsonl", "--set", "training.steps=3")
    assert (config.model.path, config.data.path) == (str(tmp_path / "mine"), str(tmp_path / "chats.jsonl"))
    assert (config.training.steps, config.training.learning_rate) == (3, 2e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train",), "Missing: FILE.toml. Or --recipe NAME"),
        (("train", "sample", "--recipe", "guanaco-7b"), "are both settings"),
        (("train", "sample", "--model", "m"), "--model and --data go with --recipe."),
        (("train", "--recipe", "guanaco-7b"), "The recipe guanaco-7b needs a model and data."),
        (("train", "--recipe", "vicuna"), "There is no recipe 'vicuna'."),
    ],
)
def test_what_is_missing_is_said(capsys, words, said):
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_an_estimate_that_no_settings_make_fit_names_a_smaller_recipe_and_a_card(capsys, monkeypatch):
    monkeypatch.setattr("qlora_studio.cli.estimating.room_here", lambda: Room("cpu", 23 * 2**30))
    assert run("estimate", "--recipe", "instructions-65b") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "Not even one row fits.",
        "or: A smaller model fits: the recipe instructions-13b needs 19.7 GiB.",
        "or: On a card of 48 GiB it goes: --card 48 shows how.",
    ]


def test_an_estimate_needs_neither_model_nor_data(capsys):
    assert run("estimate", "--recipe", "guanaco-7b", "--card", "48", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fits"]


def test_another_model_and_other_data_are_noted():
    recipe = recipe_named("guanaco-65b")
    notes = recipe_notes(recipe, settings("--model", "sample", "--data", "sample"), "question_answer")
    assert "this model is llama of 135 M" in notes[0]
    assert notes[1] == "Guanaco 65B was made for oasst; this data is question_answer."


def test_single_ones_are_listed_and_drawn_with_settings_of_ones_own(capsys, tmp_path):
    picture = tmp_path / "memory.svg"
    words = ("recipes", "guanaco-7b", "guanaco-65b", "--card", "48", "--set", "training.batch_size=1")
    assert run(*words, "--picture", str(picture), "--json") == 0
    found = json.loads(capsys.readouterr().out)["recipes"]
    assert [item["recipe"] for item in found] == ["guanaco-7b", "guanaco-65b"]
    texts = [item.text for item in ElementTree.parse(picture).getroot().iter(f"{SVG}text")]
    assert {"guanaco-7b", "guanaco-65b", "Optimizer", "Base weights"} <= set(texts)
    assert {f"{item['total_gib']:,.1f}" for item in found} <= set(texts)
    assert run("recipes", "guanaco-7b", "--card", "48", "--json") == 0
    (alone,) = json.loads(capsys.readouterr().out)["recipes"]
    assert alone["total_gib"] != found[0]["total_gib"]  # two rows at once


def test_a_recipe_that_is_none_and_a_picture_without_a_place_are_refused(tmp_path, capsys):
    assert run("recipes", "guanaco-8b") == 2
    assert "no recipe 'guanaco-8b'" in capsys.readouterr().err
    assert run("recipes", "--card", "48", "--picture", str(tmp_path / "missing" / "memory.svg")) == 2
    assert "missing" in capsys.readouterr().err
