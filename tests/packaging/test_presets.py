"""The bundled presets load, and say what they are."""

from __future__ import annotations

from qlora_studio.config.places import resources_folder
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
