"""Loading: a folder of 16-bit weights to NF4 on the card, by the engine and by transformers + bitsandbytes.

    python -m tests.benchmarks.load --shape llama-3.1-8b

The folder is made first, of random weights, so its files lie in the system's cache: both sides read them from
there, each in a process of its own, in turns. Memory of the host is what the process holds at its peak, pages
of the files left out, over what it holds with its libraries loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.machine import machine
from tests.benchmarks.whole_job_card import make_model

GIB = 2**30


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](Path(arguments.folder))))
        return
    with tempfile.TemporaryDirectory(prefix="load-", dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "model"
        size = make_model(folder, arguments.shape, Path(scratch))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for _ in range(arguments.rounds):
            for name in SIDES:
                rows[name].append(_in_child(name, folder))
    print(f"{machine()}; {arguments.shape}, {size / 1e9:.1f} GB of 16-bit weights, NF4 + DQ")
    print(f"{'':34} {'seconds':>8} {'of them':>16} {'host GiB':>9} {'card GiB':>9}")
    for name, found in rows.items():
        seconds = [row["seconds"] for row in found]
        host, card = (max(row[key] for row in found) / GIB for key in ("host", "card"))
        each = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"{name:34} {statistics.median(seconds):8.1f} {each:>16} {host:9.2f} {card:9.2f}")


def ours(folder: Path) -> dict[str, float]:
    """As a run or a chat loads its base."""
    import torch

    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.frozen_weights import Storage
    from qlora_studio.engine.loading import load_base

    device = find_device()
    dtype = torch.bfloat16 if device.is_cuda else torch.float32

    def load() -> object:
        steps = load_base(str(folder), Storage("nf4", True, dtype), device)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    return _measured(load)


def plain(folder: Path) -> dict[str, float]:
    """As transformers' documents say."""
    import bitsandbytes  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return _measured(
        lambda: AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, dtype=torch.bfloat16, device_map=place
        )
    )


SIDES = {"transformers + bitsandbytes": plain, "the engine": ours}


def _measured(load: Callable[[], object]) -> dict[str, float]:
    """seconds; host and card: bytes at the peak. The card itself is awake before."""
    import psutil
    import torch

    on_card = torch.cuda.is_available()
    if on_card:
        torch.zeros(1, device="cuda")
    process, ended = psutil.Process(), threading.Event()
    idle = _own_bytes(process)
    peaks = [idle]

    def watch() -> None:
        while not ended.wait(0.02):
            peaks[0] = max(peaks[0], _own_bytes(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    kept = load()
    if on_card:
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    del kept
    return {
        "seconds": seconds,
        "host": peaks[0] - idle,
        "card": torch.cuda.max_memory_allocated() if on_card else float("nan"),
    }


def _own_bytes(process) -> int:  # type: ignore[no-untyped-def]
    """Without pages of files that are only mapped."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def _in_child(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.load", "--side", side, "--folder", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{side} failed: {finished.stderr[-3000:]}")
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scratch", default=None, help="where there is room for the folder")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
