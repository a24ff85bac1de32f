"""Five million rows, as many as are read (D6): imported, opened, paged and searched.

`python -m tests.benchmarks.many_rows`. Each part is a process of its own, as the reader is; `--folder` keeps
the file and the rows for another time. `--near` also looks for near-equal rows, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = 5_000_000
PAGE = 100
PAGES = 200
BAR_PAGE_S = 0.1
_WORDS = (
    "bread",
    "salt",
    "river",
    "stone",
    "light",
    "winter",
    "paper",
    "garden",
    "number",
    "letter",
    "music",
)


def main() -> None:
    """Prints seconds and peak memory of each part."""
    arguments = _arguments()
    if arguments.part:
        from qlora_studio.reader.left_out import leave_out

        leave_out("pandas")  # as the reader does, where this runs
        measured = PARTS[arguments.part](arguments.file)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(json.dumps(measured | {"peak_mb": peak}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        home = Path(arguments.folder or scratch) / "home"
        file = Path(arguments.folder or scratch) / f"rows-{arguments.rows}.jsonl"
        if not file.exists():
            write_rows(file, arguments.rows)
        print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}")
        for name in PARTS:
            if name != "near" or arguments.near:
                print(f"{name}: {_in_a_process(name, file, home)}", flush=True)
    print(f"a page must take at most {BAR_PAGE_S:g} s")


def write_rows(file: Path, rows: int) -> None:
    """Short questions and answers, no two the same."""
    lot = random.Random(0)
    with file.open("w", encoding="utf-8") as written:
        for row in range(rows):
            question, answer = " ".join(lot.choices(_WORDS, k=8)), " ".join(lot.choices(_WORDS, k=12))
            written.write(f'{{"prompt": "{row} {question}?", "completion": "{answer} {row}."}}\n')


def _import(file: Path) -> dict[str, float]:
    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.importing import import_data

    start = time.perf_counter()
    report = import_data(DataConfig(path=str(file)), _silent).report
    return {"seconds": time.perf_counter() - start, "rows": report.conversations}


def _page(file: Path) -> dict[str, float]:
    """What scrolling asks for: pages of rows with their source, anywhere."""
    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.dataset import open_dataset
    from qlora_studio.data.importing import import_data

    start = time.perf_counter()
    rows = open_dataset(import_data(DataConfig(path=str(file)), _silent).dataset)
    opened = time.perf_counter() - start
    lot = random.Random(1)
    pages = [_seconds(lambda: rows.rows(lot.randrange(len(rows)), PAGE, source=True)) for _ in range(PAGES)]
    found = _seconds(lambda: rows.search(f"{len(rows) - 5} ", 0, PAGE, source=True))
    return {
        "open_s": opened,
        "page_median_ms": 1e3 * statistics.median(pages),
        "page_longest_ms": 1e3 * max(pages),
        "search_s": found,
    }


def _near(file: Path) -> dict[str, float]:
    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.dataset import open_dataset
    from qlora_studio.data.importing import import_data
    from qlora_studio.data.marked_rows import near_rows

    rows = open_dataset(import_data(DataConfig(path=str(file)), _silent).dataset)
    start = time.perf_counter()
    found = near_rows(rows, 0.9, _silent)
    return {"seconds": time.perf_counter() - start, "copies": len(found.copies)}


PARTS = {"import": _import, "page": _page, "near": _near}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _silent(done: int, total: int, words: str) -> None:
    """Progress that nobody looks at."""


def _in_a_process(name: str, file: Path, home: Path) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.many_rows", "--part", name, "--file", str(file)],
        env=os.environ | {"QLORA_STUDIO_HOME": str(home)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return ", ".join(f"{name} {value:,.1f}" for name, value in json.loads(found.stdout).items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the file and the rows are made, and kept")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--near", action="store_true", help="also look for near-equal rows")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
