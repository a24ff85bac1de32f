"""How long a million chats (1 GB) take to import, beside `datasets`.

`python -m tests.benchmarks.import_data`. Each measurement is a process of its own with an empty cache; the
two take turns, so that what else the machine does meets both. `--folder` keeps the file for another time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROWS = 1_000_000
ROW_BYTES = 1_000
TURNS = 3  # pairs of question and answer in a chat
BAR_RATIO = 1.0  # of the time that `datasets` takes
BAR_PEAK_BYTES = 1e9
BAR_SILENCE_S = 2.0


def main() -> None:
    """Prints seconds, peak memory and the longest silence of both, and the ratio."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments.file)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        file = Path(arguments.folder or scratch) / f"chats-{arguments.rows}.jsonl"
        if not file.exists():
            write_chats(file, arguments.rows)
        print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores")
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in CHILDREN}
        for _ in range(arguments.rounds):
            for name in CHILDREN:
                load = os.getloadavg()[0]
                found = _in_a_process(name, file, Path(scratch))
                measured[name].append(found)
                print(f"{name:>8}: {_line(found)}, load before {load:.1f}", flush=True)
    ours, theirs = (min(found["seconds"] for found in measured[name]) for name in CHILDREN)
    peak = max(found["peak_bytes"] for found in measured["ours"])
    silence = max(found["silence_s"] for found in measured["ours"])
    print(f"best of each: {ours:.2f} s / {theirs:.2f} s = {ours / theirs:.2f} (at most {BAR_RATIO:.1f})")
    print(f"peak of ours: {peak / 1e6:.0f} MB (below {BAR_PEAK_BYTES / 1e6:.0f})")
    print(f"longest silence of ours: {silence:.2f} s (at most {BAR_SILENCE_S:.0f})")


def write_chats(file: Path, rows: int) -> None:
    """Chats of words in a row of about `ROW_BYTES`, no two the same."""
    words = random.Random(0)
    with file.open("w", encoding="utf-8") as written:
        written.writelines(json.dumps(_chat(words, row), ensure_ascii=False) + "\n" for row in range(rows))


def _chat(words: random.Random, row: int) -> dict[str, object]:
    messages = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"{row}.{turn} {_sentence(words, 90)}?"})
        messages.append({"role": "assistant", "content": _sentence(words, 150) + '.\n"So it is."'})
    return {"id": f"chat-{row}", "messages": messages}


def _sentence(words: random.Random, size: int) -> str:
    start = words.randrange(len(_TEXT) - size)
    return _TEXT[start : start + size]


def _text() -> Iterator[str]:
    letters = random.Random(1)
    for _ in range(20_000):
        yield "".join(letters.choices("etaoinshrdlucmfwypé", k=letters.randint(2, 9)))


_TEXT = " ".join(_text())


def _ours(file: Path) -> dict[str, float]:
    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.importing import import_data
    from qlora_studio.reader.left_out import leave_out

    leave_out("pandas")  # as the reader does, where imports run
    silence, last = 0.0, time.perf_counter()

    def told(done: int, total: int, words: str) -> None:
        nonlocal silence, last
        now = time.perf_counter()
        silence, last = max(silence, now - last), now

    cpu, start = time.process_time(), time.perf_counter()
    last = start
    report = import_data(DataConfig(path=str(file)), told).report
    return _measured(start, cpu, report.imported) | {"silence_s": silence}


def _theirs(file: Path) -> dict[str, float]:
    import datasets

    datasets.disable_progress_bars()
    cpu, start = time.process_time(), time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(file), split="train")
    return _measured(start, cpu, len(rows))


CHILDREN = {"ours": _ours, "datasets": _theirs}


def _measured(start: float, cpu: float, rows: int) -> dict[str, float]:
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "rows": rows,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _in_a_process(name: str, file: Path, scratch: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=scratch) as home:
        found = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.import_data", "--child", name, "--file", str(file)],
            env=os.environ | {"QLORA_STUDIO_HOME": home, "HF_HOME": home, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
    value: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return value


def _line(found: dict[str, float]) -> str:
    words = f"{found['seconds']:.2f} s ({found['cpu_seconds']:.1f} s of a core), {found['rows']:,} rows"
    words += f", peak {found['peak_bytes'] / 1e6:.0f} MB"
    return words + (f", silence {found['silence_s']:.2f} s" if "silence_s" in found else "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the file is made, and kept")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
