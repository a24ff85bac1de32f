"""The bundled presets load, and say what they are."""

from __future__ import annotations

from qlora_studio.config.places import resources_folder, settings_folder
from qlora_studio.config.presets import Preset, presets, read_preset, sample_preset
from qlora_studio.config.run_config import SAMPLE, RunConfig


def bundled() -> list[Preset]:
    return [read_preset(file) for file in sorted((resources_folder() / "presets").glob("*.toml"))]


def test_every_bundled_preset_loads_in_the_order_of_the_form() -> None:
    names = [preset.name for preset in bundled()]

    assert names == ["QLoRA paper", "Gentle tone change", "New skill", "Smallest memory", "Sample run"]
    assert [preset.name for preset in presets()] == names


def test_every_bundled_preset_says_in_a_line_what_it_does() -> None:
    assert all(20 < len(preset.summary) < 110 for preset in bundled())


def test_the_papers_preset_is_the_defaults() -> None:
    assert bundled()[0].config == RunConfig()


def test_the_sample_run_takes_the_bundled_model_and_the_bundled_data() -> None:
    sample = sample_preset().config

    assert (sample.model.path, sample.data.path) == (SAMPLE, SAMPLE)
    assert 30 <= sample.training.steps <= 60


def own_preset(name: str, text: str) -> None:
    folder = settings_folder() / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_a_preset_of_ones_own_takes_the_place_of_the_bundled_one_with_its_file_name() -> None:
    own_preset("sample.toml", 'name = "Short"\n[training]\nsteps = 3\n')
    own_preset("zebra.toml", "[lora]\nr = 5\n")

    assert sample_preset().config.training.steps == 3
    assert [preset.name for preset in presets()][4:] == ["Short", "zebra"]


def test_a_preset_of_ones_own_that_can_not_be_read_changes_nothing() -> None:
    own_preset("sample.toml", "[lora]\nr = -1\n")

    assert sample_preset().name == "Sample run"
