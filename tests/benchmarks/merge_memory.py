"""Host memory while an adapter is merged and written: as 16-bit folder, in NF4, as GGUF in 8 bit.

    python -m tests.benchmarks.merge_memory --shape llama-3.1-8b --layers 4 --scratch DIR

Issue 9 allows 1.5 times the largest tensor and 1 GiB over the process with the model loaded. The folder of
the base, of random 16-bit weights, is made first; without --shape it is the sample model. The adapter's
weights are drawn by lot. Each kind in a process of its own; memory is what the process holds at its peak,
pages of files that are only mapped left out, over what it holds once base and adapter are there.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import machine

GIB = 2**30
KINDS = ("merged", "nf4", "q8_0")
LOOK_S = 0.02


def main() -> None:
    arguments = _arguments()
    if arguments.kind:
        print(json.dumps(measured(arguments.kind, Path(arguments.folder), Path(arguments.scratch))))
        return
    with tempfile.TemporaryDirectory(prefix="merge-", dir=arguments.scratch) as scratch:
        folder = _base(arguments.shape, arguments.layers, Path(scratch))
        layers = f", {arguments.layers} layers" if arguments.layers else ""
        print(f"{machine()}; {arguments.shape or 'the sample model'}{layers}", flush=True)
        print(f"{'':8} {'GB written':>11} {'seconds':>8} {'over idle, GiB':>15} {'allowed, GiB':>13}")
        for kind in KINDS:
            found = _in_child(kind, folder, scratch)
            allowed = 1.5 * found["largest"] + GIB
            print(
                f"{kind:8} {found['written'] / 1e9:11.2f} {found['seconds']:8.1f} "
                f"{found['over'] / GIB:15.2f} {allowed / GIB:13.2f}",
                flush=True,
            )


def measured(kind: str, folder: Path, scratch: Path) -> dict[str, float]:
    """seconds; bytes written, of the largest tensor in 16 bit, and held over idle."""
    import psutil
    import torch

    from qlora_studio.config.run_config import LoraConfig
    from qlora_studio.engine.adapters import AdaptedModel
    from qlora_studio.engine.compute_dtype import resolve_compute_dtype
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.frozen_weights import Storage
    from qlora_studio.engine.loading import load_base
    from qlora_studio.engine.merging import DEQUANTIZED, MergedWeights
    from tests.engine.tiny import loaded

    device = find_device()
    dtype = resolve_compute_dtype("auto", device)
    adapted = AdaptedModel(loaded(load_base(str(folder), Storage("nf4", True, dtype), device)))
    adapted.add_new("adapter_0", LoraConfig(r=64), seed=0)
    for name, weight in adapted.trained_parameters("adapter_0"):
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)
    merged = MergedWeights(adapted, "adapter_0", DEQUANTIZED)
    largest = max(tensor.bytes for tensor in merged.tensors.values())
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        writing = _writing(kind, merged, folder, Path(out))
        gc.collect()
        process, ended = psutil.Process(), threading.Event()
        idle = _own_bytes(process)
        peaks = [idle]

        def watch() -> None:
            while not ended.wait(LOOK_S):
                peaks[0] = max(peaks[0], _own_bytes(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.monotonic()
        for _ in writing():
            pass
        seconds = time.monotonic() - start
        ended.set()
        watcher.join()
        written = sum(file.stat().st_size for file in Path(out).iterdir())
    return {"seconds": seconds, "written": written, "largest": largest, "over": peaks[0] - idle}


def _writing(kind: str, merged: Any, folder: Path, out: Path) -> Callable[[], Iterator[int]]:
    from qlora_studio.engine.gguf_model import GgufModel, write_gguf
    from qlora_studio.engine.gguf_tokenizer import GgufTokenizer
    from qlora_studio.engine.merged_nf4 import Nf4Weights
    from qlora_studio.engine.weight_files import write_weights

    if kind == "merged":
        return lambda: write_weights(out, merged.tensors, merged.tensor)
    if kind == "nf4":
        nf4 = Nf4Weights(merged)
        return lambda: write_weights(out, nf4.tensors, nf4.tensor)
    model, tokenizer, wide = GgufModel.of(folder), GgufTokenizer.of(folder), merged.in_32_bit()
    return lambda: write_gguf(out / "model.gguf", "merged", model, tokenizer, kind, wide.shapes, wide.tensor)


def _base(shape: str, layers: int, scratch: Path) -> Path:
    from qlora_studio.models.check import model_folder
    from tests.benchmarks.whole_job_card import make_model
    from tests.engine.byte_tokenizer import write_byte_tokenizer

    if not shape:
        return model_folder("sample")
    make_model(scratch / "model", shape, scratch, layers)
    write_byte_tokenizer(scratch / "model")
    return scratch / "model"


def _own_bytes(process: Any) -> int:
    """Without pages of files that are only mapped."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def _in_child(kind: str, folder: Path, scratch: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.merge_memory", "--kind", kind]
    finished = subprocess.run(
        [*command, "--folder", str(folder), "--scratch", scratch], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"{kind} failed: {finished.stderr[-3000:]}")
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="", help="of resources/shapes; the sample model without it")
    parser.add_argument(
        "--layers", type=int, default=0, help="fewer than the shape has: no less is in memory"
    )
    parser.add_argument("--scratch", default=None, help="where there is room for base and export")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
