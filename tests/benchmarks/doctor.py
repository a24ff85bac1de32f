"""How long the doctor takes, and how much of what was planted it finds: `python -m tests.benchmarks.doctor`.

Rows are questions and answers of words as frequent as in a language (Zipf). Into them copies with edits are
planted: of 10 % of the words at most, each replaced, left out, put in or swapped with the next, anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def main() -> None:
    """Prints seconds, memory, recall and precision."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=120, help="of a row, on average")
    parser.add_argument("--vocabulary", type=int, default=30_000)
    parser.add_argument("--planted", type=float, default=0.05, help="share of the rows")
    parser.add_argument("--form", type=int, default=0, help="words that all rows begin with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["QLORA_STUDIO_HOME"] = home
        file = Path(home) / "rows.jsonl"
        copies = write(file, arguments)
        measure(file, copies)


def write(file: Path, arguments: argparse.Namespace) -> dict[int, int]:
    """Line of each planted copy -> line of its original, both from 1."""
    random.seed(7)
    numbers = np.random.Generator(np.random.PCG64(7))
    form = [f"form{i}" for i in range(arguments.form)]
    rows = list(originals(arguments, numbers))
    planted = int(arguments.planted * arguments.rows)
    places = random.sample(range(1, len(rows)), planted)
    copies: dict[int, int] = {}
    with file.open("w", encoding="utf-8") as out:
        line, copied = 0, set(places)
        lines: dict[int, int] = {}
        for index, words in enumerate(rows):
            line += 1
            lines[index] = line
            out.write(record(form, words))
            if index in copied:
                original = random.randrange(index)
                line += 1
                copies[line] = lines[original]
                out.write(record(form, edited(rows[original], arguments.vocabulary)))
    return copies


def originals(arguments: argparse.Namespace, numbers: np.random.Generator) -> Iterator[list[str]]:
    """Rows of words of a language."""
    for _ in range(arguments.rows):
        count = max(20, int(numbers.normal(arguments.words, arguments.words / 3)))
        ranks = np.minimum(numbers.zipf(1.2, count), arguments.vocabulary)
        yield [f"w{rank}" for rank in ranks.tolist()]


def edited(words: list[str], vocabulary: int) -> list[str]:
    """At most a tenth of the words differ."""
    words = list(words)
    edits = random.randint(1, max(1, len(words) // 10))
    while edits > 0:
        at = random.randrange(len(words) - 1)
        kind = random.choice(["replace", "leave out", "put in", "swap"])
        if kind == "replace":
            words[at] = f"w{random.randrange(vocabulary)}"
        elif kind == "leave out":
            del words[at]
        elif kind == "put in":
            words.insert(at, f"w{random.randrange(vocabulary)}")
        elif edits >= 2:
            words[at], words[at + 1] = words[at + 1], words[at]
            edits -= 1
        else:
            continue
        edits -= 1
    return words


def record(form: list[str], words: list[str]) -> str:
    """A line: the first half is asked, the second one is the answer."""
    half = len(words) // 2
    chat = [
        {"role": "user", "content": " ".join(form + words[:half])},
        {"role": "assistant", "content": " ".join(words[half:])},
    ]
    return json.dumps({"messages": chat}) + "\n"


def measure(file: Path, copies: dict[int, int]) -> None:
    """In a reader of its own, as the window and the terminal ask it, with its limit on memory."""
    from qlora_studio.cli.children import Reader
    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.dataset import open_dataset
    from qlora_studio.data.marked_rows import near_rows
    from qlora_studio.protocol import reading

    data = DataConfig(path=str(file))
    last = [time.monotonic(), ""]
    spent: dict[str, float] = {}

    def told(words: str, done: int, total: int) -> None:
        now = time.monotonic()
        spent[str(last[1])] = spent.get(str(last[1]), 0.0) + now - float(last[0])
        last[:] = now, words if not words.endswith("read") else "import"

    with Reader(told) as reader:
        begun = time.monotonic()
        imported = reader.ask(reading.DataImported, reading.ImportData, data=data)
        rows = imported.report.conversations
        print(f"{rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB, imported in {since(begun)}")
        begun = last[0] = time.monotonic()
        last[1], before = "start", memory_gb(reader)
        findings = reader.ask(
            reading.Diagnosed, reading.Diagnose, dataset=imported.dataset, data=data
        ).findings
        told("end", 0, 0)
        print(
            f"doctor: {since(begun)}; peak memory {memory_gb(reader):.2f} GB, after the import {before:.2f}"
        )
    print(", ".join(f"{words} {seconds:.1f} s" for words, seconds in spent.items() if seconds > 0.5))
    for finding in findings:
        print(f"  {finding.tone}: {finding.words}")

    dataset = open_dataset(Path(imported.dataset))
    near = near_rows(dataset, 0.9, lambda done, total, words: None)  # kept beside the rows
    line = [row.line for row in dataset]
    row_of = {line: row for row, line in enumerate(line)}
    found = {line[row] for row in near.copies.tolist()}
    copies = {copy: first for copy, first in copies.items() if copy in row_of}  # the others were equal
    together = sum(near.groups[row_of[copy]] == near.groups[row_of[first]] for copy, first in copies.items())
    right = len(found & copies.keys())
    print(f"recall {right / len(copies):.4f}, precision {right / max(1, len(found)):.4f}")
    print(f"{together / len(copies):.4f} of the copies stand with their original")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def memory_gb(reader: object) -> float:
    """The most that the reader has held, as Linux counts it."""
    status = Path(f"/proc/{reader._child.pid}/status").read_text("ascii")  # type: ignore[attr-defined]
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def since(begun: float) -> str:
    """Seconds in words."""
    return f"{time.monotonic() - begun:.1f} s"


if __name__ == "__main__":
    main()
