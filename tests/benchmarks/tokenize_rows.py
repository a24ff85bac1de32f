"""How fast rows become tokens, beside bare `tokenizers`: `python -m tests.benchmarks.tokenize_rows MODEL`.

Of the same rendered text; rendering is measured apart. The last lines are what a person waits for: the
lengths of all rows of a file, counted for the first time and when the file is opened again. The sides take
turns, and the best and the median of their rounds are told; seconds of all cores together say more than the
clock's where other programs run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = 5_000
ROUNDS = 5
BARE, OURS = "bare encode_batch", "our encoding"
BAR_RATIO = 0.9
BAR_AGAIN_S = 1.0


def main() -> None:
    """Prints tokens a second of both, their ratio, and the seconds of a first and a second opening."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="default: the sample model")
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    from qlora_studio.config.places import sample_data_file, sample_model_folder

    folder = arguments.model or sample_model_folder()
    sample = sample_data_file()
    with tempfile.TemporaryDirectory() as home:
        os.environ["QLORA_STUDIO_HOME"] = home
        file = Path(home) / "rows.jsonl"
        write_chats(file, sample, arguments.rows)
        _measure(file, folder)


def write_chats(file: Path, sample: Path, rows: int) -> None:
    """Chats of two questions and answers each, of sentences of the sample data, no two the same."""
    lot = random.Random(0)
    records = [json.loads(line) for line in sample.read_text("utf-8").splitlines()]
    sentences = [part for record in records for part in re.split(r"(?<=[.?\n]) ?", " ".join(record.values()))]
    with file.open("w", encoding="utf-8") as written:
        for row in range(rows):
            turns = [" ".join(lot.choices(sentences, k=lot.randint(1, 6))) for _ in range(4)]
            roles = ("user", "assistant", "user", "assistant")
            messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
            messages[0]["content"] += f" ({row})"
            written.write(json.dumps({"messages": messages}) + "\n")


def _measure(file: Path, folder: Path) -> None:
    from tokenizers import Tokenizer

    from qlora_studio.config.run_config import DataConfig
    from qlora_studio.data.dataset import Dataset, open_dataset
    from qlora_studio.data.importing import import_data
    from qlora_studio.data.lengths import count_lengths
    from qlora_studio.data.masking import Rendered
    from qlora_studio.data.row_encoder import ROWS_AT_ONCE, RowEncoder
    from qlora_studio.data.template import find_template
    from qlora_studio.data.tokenizer import load_tokenizer

    def rows() -> Dataset:
        return open_dataset(import_data(DataConfig(path=str(file)), _silent).dataset)

    def encoder() -> RowEncoder:
        tokenizer = load_tokenizer(folder)
        template = find_template(folder, tokenizer.special.names)
        assert template is not None, f"{folder} has no chat template"
        return RowEncoder(tokenizer, template, train_on="answers")

    found, encode = list(rows()), encoder()
    batches = [found[start : start + ROWS_AT_ONCE] for start in range(0, len(found), ROWS_AT_ONCE)]
    rendered = [encode._rendered(batch) for batch in batches]
    texts = [[chat.text for _, chat in batch if isinstance(chat, Rendered)] for batch in rendered]
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = sum(
        len(item.ids) for batch in texts for item in bare.encode_batch(batch, add_special_tokens=False)
    )
    print(f"{len(found):,} rows, {tokens:,} tokens, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    works: dict[str, Callable[[], object]] = {
        BARE: lambda: [bare.encode_batch(batch, add_special_tokens=False) and None for batch in texts],
        OURS: lambda: [encode._encoded(batch) and None for batch in rendered],
        "rendering": lambda: [encode._rendered(batch) and None for batch in batches],
        "both, side by side": lambda: [batch and None for batch in encode.encode_each(batches)],
    }
    gc.freeze()  # a reader doesn't hold all of these rows while it encodes
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(_timed(work))
    for at, clock in enumerate(("by the clock", "of all cores")):
        seconds = {name: [measured[at] for measured in times[name]] for name in works}
        for name, each in seconds.items():
            best, median = min(each), statistics.median(each)
            print(f"{clock}, {name}: best {best:.2f} s, median {median:.2f}, {tokens / best:,.0f} tokens/s")
        ratios = [of(seconds[BARE]) / of(seconds[OURS]) for of in (min, statistics.median)]
        print(
            f"{clock}, speed of our encoding / bare: best {ratios[0]:.2f} (at least {BAR_RATIO}), "
            f"median {ratios[1]:.2f}"
        )
    again = []
    for _ in range(2):
        start = time.perf_counter()
        count_lengths(rows(), encode, _silent)
        again.append(time.perf_counter() - start)
    print(f"lengths, first time:  {again[0]:.2f} s")
    print(f"opened again:         {again[1]:.2f} s (below {BAR_AGAIN_S:.0f})")


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of all cores together."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cores


def _silent(done: int, total: int, words: str) -> None:
    """Progress that nobody looks at."""


if __name__ == "__main__":
    main()
