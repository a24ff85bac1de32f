"""The wait for a run's first step: an engine of its own process, asked at once or after it was told to expect
a run, as while data is prepared.

    python -m tests.benchmarks.first_step --shape llama-3.1-8b --rows 4 --seq-len 2048 --idle 0 30

Each engine trains the same shape of random weights for three steps; the second finds on the disk what the
first compiled. On a card; where none is, no layer is compiled, and there is nothing to see.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import machine
from tests.benchmarks.train import EQUAL, _rows_like

STEPS = 3


def main() -> None:
    arguments = _arguments()
    os.environ["QLORA_STUDIO_HOME"] = tempfile.mkdtemp()
    print(f"{machine()}; {arguments.shape}, {arguments.rows} x {arguments.seq_len}")
    for number, idle in enumerate(arguments.idle):
        waits = first_step(arguments, Path(os.environ["QLORA_STUDIO_HOME"]) / str(number), idle)
        ready, asked, loaded, first, later = waits
        print(
            f"engine {number + 1}: ready after {ready:.1f} s, expects a run for {idle:.0f} s; from the "
            f"command on the model was loaded after {loaded - asked:.1f} s and the first step there after "
            f"{first - asked:.1f} s, which took {first - loaded:.1f} s; the next {later - first:.1f} s",
            flush=True,
        )


def first_step(arguments: argparse.Namespace, home: Path, idle: float) -> tuple[float, ...]:
    """Seconds since the engine's start: ready, asked, model loaded, first step, second."""
    from qlora_studio.protocol.child import start_engine
    from qlora_studio.protocol.commands import ExpectTraining, Train
    from qlora_studio.protocol.events import EngineReady, ModelLoaded, RunFailed, StepFinished

    run = _run(arguments, home)
    started = time.monotonic()
    child = start_engine()
    heard = child.heard()
    ends: list[float] = []

    def wait_for(kind: type[Any]) -> None:
        for event in heard:
            if isinstance(event, RunFailed):
                raise SystemExit(f"train failed: {event}")
            if isinstance(event, kind):
                ends.append(time.monotonic() - started)
                return
        raise SystemExit(f"the engine is gone; its log: {child.log}")

    wait_for(EngineReady)
    if idle:
        child.say(ExpectTraining())
        time.sleep(idle)
    ends.append(time.monotonic() - started)
    child.say(Train(run=str(run)))
    for kind in (ModelLoaded, StepFinished, StepFinished):
        wait_for(kind)
    child.kill()
    child.wait()
    return tuple(ends)


def _run(arguments: argparse.Namespace, home: Path) -> Path:
    from tests.engine.tiny import make_run

    rows = argparse.Namespace(
        shape=arguments.shape, rows=arguments.rows, seq_len=arguments.seq_len, steps=STEPS, rows_like=EQUAL
    )
    return make_run(
        home,
        Path(f"shape:{arguments.shape}"),
        rows=_rows_like(rows),
        validation=[],
        device=arguments.device,
        model__compute_dtype="auto",
        data__seq_len=arguments.seq_len,
        lora__r=64,
        training__batch_size=arguments.rows,
        training__gradient_accumulation=1,
        training__steps=STEPS,
        training__recompute="none",
        checkpoints__every_steps=1_000,
        checkpoints__evaluate_every_steps=0,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--idle", type=float, nargs="+", default=[0.0, 30.0], help="seconds, of each engine")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
