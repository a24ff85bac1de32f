"""How long a metrics file of a million steps takes to read: `python -m tests.benchmarks.read_metrics`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from qlora_studio.protocol.events import CheckpointSaved, EvaluationFinished, StepFinished
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.metrics import MetricsTail, read_metrics

STEPS = 1_000_000
BAR_S = 2.0  # of which the window needs some to draw


def main() -> None:
    """Prints seconds, megabytes, and what following the file costs afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        with file.open("wb") as writing:
            writing.writelines(map(lines_of_step, range(1, STEPS + 1)))
        import numpy  # noqa: F401 - the window has loaded it by then

        best = min(seconds_to_read(file) for _ in range(3))
        tail = MetricsTail(file)
        tail.read()
        with file.open("ab") as writing:
            writing.write(lines_of_step(STEPS + 1))
        start = time.perf_counter()
        tail.read()
        one_more = time.perf_counter() - start
        size_mb = file.stat().st_size / 1e6
    print(f"{STEPS:,} steps, {size_mb:.0f} MB: {best:.2f} s (at most {BAR_S:.0f})")
    print(f"one more: {one_more * 1e3:.2f} ms")


def seconds_to_read(file: Path) -> float:
    """Wall time."""
    start = time.perf_counter()
    assert len(read_metrics(file)) == STEPS
    return time.perf_counter() - start


def lines_of_step(step: int) -> bytes:
    """The step, and every hundredth time what happens between steps."""
    memory = {"weights": 5_300_000_000, "adapter": 671_000_000, "gradients": 335_000_000}
    memory |= {"optimizer": 1_342_000_000, "activations": 4_200_000_000 + step, "logits": 1_100_000_000}
    noise = step * 2_654_435_761 % 2**32 / 2**32  # curves as rough as real ones
    line = EVENTS.encode(
        StepFinished(
            step=step,
            loss=1.0 + 0.2 * noise + 1 / step,
            learning_rate=2e-4,
            grad_norm=0.3 + 0.2 * noise + 1 / step,
            tokens=32_512,
            learned_tokens=12_033,
            tokens_per_second=13_222.1 + 500 * noise,
            learned_tokens_per_second=5_022.3 + 200 * noise,
            rows=(step, step + 1, step + 2, step + 3),
            memory=memory,
            epoch=step / 7_000,
            elapsed_s=1.5 * step,
            time=1.8e9 + 1.5 * step,
        )
    )
    return line if step % 100 else line + _between_steps(step)


def _between_steps(step: int) -> bytes:
    evaluation = EvaluationFinished(
        step=step, loss=1.1, perplexity=3.0, rows=100, learned_tokens=9_000, best=False, seconds=3.0, time=0.0
    )
    saved = CheckpointSaved(step=step, path=f"checkpoints/step-{step:06d}", time=0.0)
    return EVENTS.encode(evaluation) + EVENTS.encode(saved)


if __name__ == "__main__":
    main()
