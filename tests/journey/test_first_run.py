"""What a newcomer sees where there is no display: the sample job in the terminal, from first line to last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qlora_studio.config.places import settings_folder

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")

# The bundled preset makes 40 updates of 512 tokens. One's own preset of the same name takes its place.
SHORT = """
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
steps = 3
batch_size = 1
gradient_accumulation = 1
learning_rate = 1e-3
[checkpoints]
evaluate_every_steps = 0
[[samples]]
prompt = "What is 2 + 3?"
max_tokens = 12
"""


@pytest.mark.slow
def test_without_a_display_the_sample_job_is_done_in_the_terminal(sample_home: Path, tmp_path: Path) -> None:
    preset = settings_folder() / "presets" / "sample.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text(SHORT, "utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in DISPLAYS}
    environment["QLORA_STUDIO_CACHE"] = str(tmp_path / "cache")  # a new machine: no sample model yet

    done = subprocess.run(
        [sys.executable, "-m", "qlora_studio"], env=environment, capture_output=True, text=True, timeout=280
    )

    assert (done.returncode, done.stderr) == (0, "")
    first, *_, losses, adapter, question, base, tuned = done.stdout.splitlines()
    assert first.startswith("No display here, so no window")
    before, after = (float(word) for word in losses.removeprefix("loss before ").split(", after "))
    assert after < before
    assert (Path(adapter.removeprefix("adapter: ")) / "adapter_model.safetensors").is_file()
    assert question == "question: What is 2 + 3?"
    assert len(base.removeprefix("base: ")) > 5
    assert len(tuned.removeprefix("tuned: ")) > 5
