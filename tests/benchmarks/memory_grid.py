"""The memory promise against what a card measures, over a grid of settings.

    python -m tests.benchmarks.memory_grid [--drawn 20] [--first 0] [--seconds 550] [--lines FILE]
    python -m tests.benchmarks.memory_grid --drawn 60 --beside 8 [--only 4 30 51] [--seconds 550]
    python -m tests.benchmarks.memory_grid --processor [--first 0] [--seconds 550] [--lines FILE]

Each setting trains three updates of a known shape with random weights, in one process whose cache is emptied
between them. Measured is torch's reserved memory at its peak, the paged optimizer's state and the context of
the device. The goal: within 5 % for 9 of 10 settings, never more than 3 % too little.

With `--beside` so many processes share the card, each with one setting at a time, as far as their promises
have room together, large ones first. What each takes is its own; the context is that of the first.

On a processor the shape of the bundled model makes two updates in a process of its own for each setting, as
the C library gives memory back late; measured is what the process held at most in a step.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

GIB = 2**30
CLOSE, TOO_LITTLE = 0.05, -0.03
USUAL: dict[str, Any] = {
    "rows": 4,
    "len": 1024,
    "r": 16,
    "recompute": "all",
    "quantization": "nf4",
    "double_quant": True,
    "optimizer": "paged_adamw_32bit",
    "targets": "all-linear",
    "dropout": 0.0,
    "use_dora": False,
    "keep_dequantized": False,
    "steps": 3,
    "dtype": "auto",
}
SMALL, MIDDLE, LARGE = "qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"


def main() -> None:
    """Prints a line for each setting and what holds of all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first setting")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings, in place of all")
    parser.add_argument("--drawn", type=int, default=0, help="so many settings by lot, in place of the grid")
    parser.add_argument("--beside", type=int, default=1, help="so many processes share the card")
    parser.add_argument("--processor", action="store_true", help="the bundled model's shape, without a card")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # a setting as JSON: a child's
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--lines", type=Path, default=None, help="where each setting goes as a line of JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the engine does
    os.environ["QLORA_STUDIO_HOME"] = tempfile.mkdtemp(prefix="memory-grid-")
    if arguments.one:
        print(json.dumps(Bench().measure(json.loads(arguments.one))))
        return
    ends = time.monotonic() + arguments.seconds
    found: list[dict[str, Any]] = []
    if arguments.beside > 1:
        numbered = chosen(drawn(arguments.drawn) if arguments.drawn else grid(), arguments)
        conclude(beside_one_another(numbered, arguments.beside, ends, arguments.lines))
        return
    if arguments.processor:
        measure, settings = in_a_child, grid_of_processor()
    else:
        bench = Bench()
        print(f"{bench.name}; context {bench.context / GIB:.2f} GiB", flush=True)
        measure, settings = bench.measure, drawn(arguments.drawn) if arguments.drawn else grid()
    for number, setting in chosen(settings, arguments):
        if time.monotonic() > ends:
            print(f"out of time: go on with --first {number}")
            break
        line = {"number": number, **setting, **measure(setting)}
        found.append(line)
        print(in_words(line), flush=True)
        if arguments.lines:
            with arguments.lines.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
    conclude(found)


def chosen(
    settings: Iterable[dict[str, Any]], arguments: argparse.Namespace
) -> list[tuple[int, dict[str, Any]]]:
    """Those asked for, each with its number."""
    only, first = arguments.only, arguments.first
    return [each for each in enumerate(settings) if each[0] >= first and (only is None or each[0] in only)]


def grid() -> Iterator[dict[str, Any]]:
    """At least 60: each shape as usual, and one or two things changed at a time."""
    for shape in ("smollm2-135m", SMALL, MIDDLE, "llama-3.2-3b", "gemma-2-2b", "phi-3-mini"):
        yield of(shape)
        yield of(shape, rows=1, len=2048, recompute="none")
        yield of(shape, rows=8, len=512, r=64)
    for shape in (MIDDLE, LARGE):
        for rows, length in ((1, 512), (1, 4096), (2, 2048), (8, 1024)):
            yield of(shape, rows=rows, len=length)
        yield of(shape, recompute="none")
        yield of(shape, recompute=8, r=64)
        yield of(shape, r=128)
        yield of(shape, double_quant=False)
        yield of(shape, quantization="int8")
        yield of(shape, optimizer="paged_adamw_8bit", r=64)
        yield of(shape, targets=["q_proj", "v_proj"])
        yield of(shape, dropout=0.1)
    for shape in ("mistral-7b", "qwen2.5-7b"):
        yield of(shape)
        yield of(shape, rows=2, recompute="none", r=64)
    for changed in ({"quantization": "none"}, {"quantization": "fp4"}, {"use_dora": True}):
        yield of(SMALL, **changed)
        yield of(MIDDLE, **changed)
    for rows, length in ((2, 256), (16, 512), (2, 4096)):
        yield of(SMALL, rows=rows, len=length)
        yield of(SMALL, rows=rows, len=length, recompute="none")
    yield of(LARGE, rows=4, len=2048, r=64)
    yield of(LARGE, rows=4, len=2048, r=64, recompute="none")
    yield of(LARGE, r=64, recompute="none", keep_dequantized=True)
    yield of("llama-3.2-3b", rows=1, keep_dequantized=True)
    yield of("llama-3.2-3b", recompute=14)
    yield of("llama-3.2-3b", rows=2, len=4096, recompute="none")


def grid_of_processor() -> Iterator[dict[str, Any]]:
    """1 to 8 rows of 256 to 1,024 tokens, ranks from 8 to 64, layers recomputed or not."""
    settings: tuple[tuple[int, int, int, str | int, str], ...] = (
        (2, 256, 8, "none", "bfloat16"),
        (2, 256, 8, "none", "float32"),
        (1, 256, 8, "none", "bfloat16"),
        (2, 256, 8, "all", "bfloat16"),
        (4, 256, 16, "none", "float32"),
        (2, 512, 64, "none", "bfloat16"),
        (8, 256, 64, "all", "bfloat16"),
        (1, 1024, 16, "none", "bfloat16"),
        (2, 512, 16, 15, "bfloat16"),
        (2, 512, 16, "all", "float32"),
        (8, 256, 8, "none", "bfloat16"),
        (4, 1024, 8, "all", "bfloat16"),
    )
    for rows, length, r, recompute, dtype in settings:
        yield of("smollm2-135m", rows=rows, len=length, r=r, recompute=recompute, dtype=dtype, steps=2)


def in_a_child(setting: dict[str, Any]) -> dict[str, Any]:
    """`Bench.measure` without a card, in a process that has done nothing before."""
    command = [sys.executable, "-m", "tests.benchmarks.memory_grid", "--one", json.dumps(setting)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr[-300:]}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def drawn(count: int) -> Iterator[dict[str, Any]]:
    """Settings that the promise's numbers weren't fitted to."""
    lot = random.Random(20261126)
    for _ in range(count):
        length = lot.choice((256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096))
        shape = lot.choice((SMALL, MIDDLE, "llama-3.2-3b", "qwen2.5-7b", "phi-3-mini", "mistral-7b", LARGE))
        yield of(
            shape,
            rows=lot.randint(1, max(1, 12_288 // length)),
            len=length,
            r=lot.choice((8, 16, 32, 64, 96)),
            recompute=lot.choice(("all", "all", "none", 4, 12, 20)),
            quantization=lot.choice(("nf4", "nf4", "nf4", "fp4")),
            optimizer=lot.choice(("paged_adamw_32bit", "paged_adamw_8bit")),
            dropout=lot.choice((0.0, 0.0, 0.05)),
        )


def of(shape: str, **changed: Any) -> dict[str, Any]:
    """A setting: the usual one with some things changed."""
    return {"shape": shape, **USUAL, **changed}


def run_config_of(setting: dict[str, Any]) -> Any:
    """A run's settings."""
    from qlora_studio.config.run_config import (
        CheckpointsConfig,
        DataConfig,
        LoraConfig,
        ModelConfig,
        RunConfig,
        TrainingConfig,
    )

    targets = setting["targets"]
    return RunConfig(
        model=ModelConfig(
            path=f"shape:{setting['shape']}",
            quantization=setting["quantization"],
            double_quant=setting["double_quant"],
            compute_dtype=setting["dtype"],
        ),
        data=DataConfig(seq_len=setting["len"], validation=0),
        lora=LoraConfig(
            r=setting["r"],
            target_modules=targets if isinstance(targets, str) else tuple(targets),
            dropout=setting["dropout"],
            use_dora=setting["use_dora"],
        ),
        training=TrainingConfig(
            batch_size=setting["rows"],
            gradient_accumulation=1,
            steps=setting["steps"],
            recompute=setting["recompute"],
            keep_dequantized=setting.get("keep_dequantized", False),
            optimizer=setting["optimizer"],
        ),
        checkpoints=CheckpointsConfig(every_steps=1_000_000, evaluate_every_steps=0),
    )


class Bench:
    """One device, one process."""

    def __init__(self) -> None:
        import torch

        from qlora_studio.engine.device import find_device
        from qlora_studio.engine.model_holder import ModelHolder

        self._torch = torch
        self.device = find_device()
        self.name = f"{self.device.name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
        self._holder = ModelHolder(self.device)
        self.context = 0
        if self.device.is_cuda:
            torch.zeros(1, device=self.device.torch_device)
            free, total = torch.cuda.mem_get_info()
            self.context = total - free - torch.cuda.memory_reserved()

    def promised(self, setting: dict[str, Any]) -> Any:
        """The promise of a setting, with what is free now."""
        from qlora_studio.memory.promise import promise
        from qlora_studio.models.shapes import model_shape

        config = run_config_of(setting)
        room = self.device.free_bytes()
        shape = model_shape(config.model.path)
        return promise(shape, config, device=self.device.kind, free_bytes=room, ways=False)

    def measure(self, setting: dict[str, Any]) -> dict[str, Any]:
        """Promised and measured bytes, whole and by part; or the error."""
        from qlora_studio.errors import StudioError
        from qlora_studio.protocol.events import RunFailed, StepFinished

        self.let_go()
        started = time.monotonic()
        promised = self.promised(setting)
        peaks: list[dict[str, int]] = []
        failed = ""
        try:
            for event in self._train(run_config_of(setting), self.device.free_bytes()):
                if isinstance(event, StepFinished):
                    peaks.append(dict(event.memory))
                elif isinstance(event, RunFailed):
                    failed = event.error.message
        except StudioError as error:  # before the run began
            failed = error.message
        if failed or not peaks:
            return {"failed": failed or "no step"}
        peak = max(peaks, key=lambda parts: sum(parts.values()))
        return {
            "promised": promised.total,
            "measured": sum(peak.values()) + self.context,
            "promised_parts": promised.parts,
            "measured_parts": peak,
            "seconds": time.monotonic() - started,
        }

    def let_go(self) -> None:
        """Of the model, and of what was compiled for it."""
        self._holder.let_go()
        self._torch._dynamo.reset()  # else the settings before count as recompilations
        self._holder.let_go()

    def _train(self, config: Any, room: int) -> Iterator[Any]:
        from qlora_studio.engine.training_job import run_training
        from qlora_studio.engine.wish import Wish
        from qlora_studio.protocol.reading import PrepareRun
        from qlora_studio.reader.model_text import ModelTexts
        from qlora_studio.reader.run_jobs import prepare_run

        prepared = prepare_run(
            PrepareRun(
                id=1,
                config=config,
                name="grid",
                runs_dir=os.environ["QLORA_STUDIO_HOME"] + "/runs",
                device=self.device.kind,
                device_memory_bytes=room,
            ),
            ModelTexts(),
            lambda *_: None,
        )
        yield from run_training(Path(prepared.run), self._holder, lambda: Wish.NOTHING)


def beside_one_another(
    settings: list[tuple[int, dict[str, Any]]], count: int, ends: float, lines: Path | None
) -> list[dict[str, Any]]:
    """Measures them in so many processes, which each print their lines."""
    bench = Bench()
    print(f"{bench.name}; context {bench.context / GIB:.2f} GiB", flush=True)
    room = int(0.85 * bench.device.free_bytes()) - count * bench.context
    sizes = [(number, bench.promised(setting).total, setting) for number, setting in settings]
    processes = multiprocessing.get_context("spawn")
    with processes.Manager() as manager:
        # What has no room beside any other comes last, when nothing else is left.
        todo = manager.list(sorted(sizes, key=lambda each: -each[1] if each[1] < room else 0))
        taken, changed = manager.Value("q", 0), manager.Condition()
        found = manager.list()
        shared = todo, taken, changed, found, room, bench.context, ends, lines
        workers = [processes.Process(target=_take_settings, args=shared) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if left := [number for number, _, _ in todo]:
            print(f"out of time: left are {left}")
        return list(found)


def _take_settings(
    todo: Any, taken: Any, changed: Any, found: Any, room: int, context: int, ends: float, lines: Path | None
) -> None:
    """One process: the next setting that has room beside what others have in hand."""
    logging.disable(logging.WARNING)
    os.environ["QLORA_STUDIO_HOME"] = tempfile.mkdtemp(prefix="memory-grid-")
    bench = Bench()
    while True:
        with changed:
            while todo and time.monotonic() < ends:
                mine = next((each for each in todo if not taken.value or taken.value + each[1] <= room), None)
                if mine is not None:
                    break
                changed.wait(5)
            else:
                return
            todo.remove(mine)
            taken.value += mine[1]
        number, size, setting = mine
        line = {"number": number, **setting, **bench.measure(setting)}
        if "measured" in line:
            line["measured"] += context - bench.context  # others came and went as this one's was read
        shutil.rmtree(os.environ["QLORA_STUDIO_HOME"], ignore_errors=True)  # checkpoints of GB
        bench.let_go()
        with changed:
            found.append(line)
            print(in_words(line), flush=True)
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            taken.value -= size
            changed.notify_all()


def in_words(line: dict[str, Any]) -> str:
    """What is unusual of the setting, both figures, and how far the promise is off."""
    unusual = {name: line[name] for name, value in USUAL.items() if line.get(name, value) != value}
    words = " ".join(f"{name}={value}" for name, value in unusual.items())
    head = f"{line['number']:3} {line['shape']:14} {words:44}"
    if "failed" in line:
        return f"{head} FAILED {line['failed']}"
    promised, measured = line["promised_parts"], line["measured_parts"]
    parts = " ".join(
        f"{name[:5]} {size / GIB:.2f}/{measured.get(name, 0) / GIB:.2f}" for name, size in promised.items()
    )
    return (
        f"{head} {line['promised'] / GIB:6.2f} {line['measured'] / GIB:6.2f} {off(line):+7.1%}"
        f"  {line['seconds']:4.0f} s  {parts}"
    )


def off(line: dict[str, Any]) -> float:
    """Share by which the promise is larger than what was measured."""
    return float(line["promised"] / line["measured"] - 1)


def conclude(found: list[dict[str, Any]]) -> None:
    """How many are close, and the worst that were promised too little."""
    measured = [line for line in found if "failed" not in line]
    if not measured:
        return
    close = sum(abs(off(line)) <= CLOSE for line in measured)
    low = sum(off(line) < TOO_LITTLE for line in measured)
    print(
        f"{len(found)} settings, {len(found) - len(measured)} failed; "
        f"within 5 %: {close / len(measured):.0%} (goal 90 %); more than 3 % too little: {low} (goal 0); "
        f"from {min(map(off, measured)):+.1%} to {max(map(off, measured)):+.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
