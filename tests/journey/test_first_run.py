"""What a newcomer sees where there is no display: the sample job in the terminal, from first line to last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.short_sample import use_short_sample

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
PROMPT = '[[samples]]\nprompt = "What is 2 + 3?"\nmax_tokens = 12\n'


@pytest.mark.slow
def test_without_a_display_the_sample_job_is_done_in_the_terminal(sample_home: Path, tmp_path: Path) -> None:
    use_short_sample(steps=3, samples=PROMPT)
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
