"""A real window with its engine over one run of the sample model, both killed again and again.

    python -m tests.faults.kill_loop --kills 100

A window opens the run and Resume is clicked in it. At a random moment, while it loads, learns, saves or
rotates, engine, window or both are killed; after a window alone the engine saves and ends, or is killed at
that too. After each kill every checkpoint must be sound and no more than one interval lost. At the end the
run goes on to its last step, and its losses and adapter must be those of a run that was never broken.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from qlora_studio.config import places
from qlora_studio.config.presets import sample_preset
from qlora_studio.config.toml_file import with_changes
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.child import start_engine, start_reader
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.metrics import read_metrics
from tests.faults.resuming_window import engine_of
from tests.short_sample import take_sample_model

EVERY = 2  # updates between two checkpoints
LONG_S = 300.0  # for a word of the window, on a machine that does other things
ENDS_S = 60.0  # for an engine whose window is gone (R7)
STARTING_S = 15.0  # to load window, libraries and model, about
PROJECT = Path(__file__).parents[2]


@dataclass
class Kills:
    """What was killed; how many checkpoints were looked at afterwards, and the most updates lost."""

    counts: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    most_lost: int = 0
    lives: int = 0  # of the window

    @property
    def made(self) -> int:
        return sum(self.counts.values())


def kill_loop(
    folder: Path, kills: int, steps: int, seed: int = 1, told: Callable[[str], None] = lambda words: None
) -> Kills:
    """QLORA_STUDIO_HOME holds the sample model. folder: where runs and data are made.

    Raises: AssertionError where a promise is broken.
    """
    unbroken, run = (_prepared(folder, name, steps) for name in ("unbroken", "killed"))
    _train(unbroken)
    chance, found = random.Random(seed), Kills()
    window = None
    try:
        while found.made < kills:
            if window is None or window.process.poll() is not None:
                window = _Window(run)
                found.lives += 1
            window.live_on(chance)
            _kill(window, chance, found)
            _look_at(run, found)
            told(f"{found.made} kills, step {open_run(run).state.step}")
            if open_run(run).state.state == "finished":
                raise AssertionError(f"{steps} steps were over after {found.made} kills: take more steps")
        if window is None or window.process.poll() is not None:
            window = _Window(run)
        assert window.process.wait(LONG_S + steps * 10) == 0
    finally:
        if window is not None:
            window.end()
    _assert_equal(run, unbroken)
    return found


def _prepared(folder: Path, name: str, steps: int) -> Path:
    """A run of the sample model as the reader makes it; nothing of it is trained yet."""
    data = folder / "sums.jsonl"
    if not data.exists():
        pairs = [(a, b) for a in range(2, 10) for b in range(3, 9)]
        lines = [{"question": f"What is {a} times {b}?", "answer": f"{a} x {b} = {a * b}"} for a, b in pairs]
        data.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    changes = {
        "data.path": str(data),
        "data.seq_len": 64,
        "lora.r": 4,
        "lora.dropout": 0.1,
        "training.steps": steps,
        "training.batch_size": 1,
        "checkpoints.every_steps": EVERY,
        "checkpoints.evaluate_every_steps": 0,
    }
    config = with_changes(sample_preset().config, changes)
    config = msgspec.structs.replace(config, samples=())
    reader = start_reader()
    reader.say(
        reading.PrepareRun(
            id=1,
            config=config,
            name=name,
            runs_dir=str(folder / "runs"),
            device="cpu",
            device_memory_bytes=8 << 30,
        )
    )
    answer = next(item for item in reader.heard() if isinstance(item, reading.RunPrepared | reading.Refused))
    reader.hang_up()
    assert isinstance(answer, reading.RunPrepared), answer
    return Path(answer.run)


def _train(run: Path) -> None:
    engine = start_engine()
    engine.say(commands.Train(run=str(run)))
    for event in engine.heard():
        if isinstance(event, events.RunFinished | events.RunFailed):
            assert isinstance(event, events.RunFinished) and event.state == "finished", event
            break
        engine.say(commands.Heartbeat())  # or it takes its window for dead; it tells something every 5 s
    engine.hang_up()
    engine.wait(ENDS_S)


class _Window:
    """A process of `resuming_window`."""

    def __init__(self, run: Path) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.resuming_window", str(run)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def live_on(self, chance: random.Random) -> None:
        """To a moment of while it loads, while it saves and rotates, or whenever."""
        while not self._lines.empty():
            self._lines.get()
        match chance.choices(("loading", "saving", "any"), (3, 5, 2))[0]:
            case "loading":
                time.sleep(chance.uniform(0, STARTING_S))
            case "saving":
                self._wait_for("heard Saving")
                time.sleep(chance.uniform(0, 0.5))
            case "any":
                self._wait_for("heard StepFinished")
                time.sleep(chance.uniform(0, 2))

    def _wait_for(self, words: str) -> None:
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:
            line = self._lines.get(timeout=LONG_S)
            if line.startswith(words) or not line:
                return
        raise AssertionError(f"{LONG_S:.0f} s without {words}")

    def end(self) -> None:
        """With what it started."""
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(children, ENDS_S)


def _kill(window: _Window, chance: random.Random, found: Kills) -> None:
    engine = engine_of(window.process.pid) if window.process.poll() is None else 0
    target = chance.choice(("engine", "window", "both", "window, then engine"))
    if target == "engine" and not engine:
        target = "window"  # there is no other yet
    if target != "engine":
        window.process.kill()
        window.process.wait()
        found.counts["window"] += 1
    if not engine:
        return
    process = psutil.Process(engine)
    if target == "window":
        process.wait(ENDS_S)
        return
    if target == "window, then engine":
        time.sleep(chance.uniform(0, 1.5))  # it may be saving by now, or be gone
    try:
        process.kill()
        found.counts["engine"] += 1
        process.wait(ENDS_S)
    except psutil.NoSuchProcess:
        return


def _look_at(run: Path, found: Kills) -> None:
    """Engines are gone now; a new one may just be starting in a window that lives."""
    saved = checkpoints(run, verify=True)
    damaged = [f"{info.path.name}: {info.reason}" for info in saved if not info.sound]
    assert not damaged, damaged
    made = read_metrics(run / "metrics.jsonl").steps.tolist()
    lost = max(made, default=0) - max((info.step for info in saved), default=0)
    assert lost <= EVERY, f"{lost} updates lost"
    found.looked_at += len(saved)
    found.most_lost = max(found.most_lost, lost)


def _assert_equal(run: Path, other: Path) -> None:
    mine, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (run, other))
    assert mine.steps.tolist() == theirs.steps.tolist()
    assert mine.loss.tolist() == theirs.loss.tolist()
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (other / weights).read_bytes()


def main() -> None:
    """Prints what was killed and what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_loop")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    usual = places.sample_model_folder()
    if not (usual / "config.json").exists():
        parser.error("Unpack the sample model first: qlora-studio train sample")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QLORA_STUDIO_HOME"] = str(Path(folder) / "home")
        take_sample_model(usual)
        began = time.monotonic()
        found = kill_loop(Path(folder), arguments.kills, arguments.steps, arguments.seed, _say)
    kinds = ", ".join(f"{count} of the {name}" for name, count in sorted(found.counts.items()))
    print(
        f"{found.made} kills ({kinds}) in {found.lives} windows, {arguments.steps} updates, "
        f"{(time.monotonic() - began) / 60:.0f} min: {found.looked_at} checkpoints looked at, all sound; "
        f"at most {found.most_lost} of {EVERY} updates lost; losses and adapter as never broken"
    )


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
