"""The sample job in a home of a test's own: short, and with the model that was unpacked before."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config.places import sample_model_folder, settings_folder

SHORT_SAMPLE = """
name = "Sample run"
[model]
path = "sample"
[data]
path = "sample"
seq_len = 128
validation = 0.02
[lora]
r = 4
[training]
steps = {steps}
batch_size = 1
gradient_accumulation = 1
learning_rate = 1e-3
[checkpoints]
{checkpoints}
"""


def use_short_sample(
    steps: int = 4, checkpoints: str = "evaluate_every_steps = 0", samples: str = ""
) -> None:
    """In place of the bundled preset, whose 40 updates of 512 tokens take minutes.

    checkpoints, samples: lines of the settings
    """
    preset = settings_folder() / "presets" / "sample.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text(SHORT_SAMPLE.format(steps=steps, checkpoints=checkpoints) + samples, "utf-8")


def take_sample_model(usual: Path) -> None:
    """Where it was unpacked before, that isn't done again."""
    if (usual / "config.json").exists():
        sample_model_folder().parent.mkdir(parents=True)
        sample_model_folder().symlink_to(usual, target_is_directory=True)
