"""Fault 30: files made to stop whoever reads them. Each ends at a limit, in words, and the reader goes on."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import reading
from tests.faults.reader_process import Reader, a_reader, asked

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")

GOOD = b'{"question": "a", "answer": "b"}\n'
MOST_MEMORY = 2 * 1024**3
MOST_DISK = 300 * 10**6
MOST_SECONDS = 30


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One for all files. Its files can't grow over the limit."""
    with a_reader(tmp_path_factory.mktemp("home")) as child:
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (MOST_DISK // 2, MOST_DISK // 2))
        yield child


def arrow(columns: dict[str, Any], **options: Any) -> bytes:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def one_text_many_times() -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 1_000_000]))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep.json": (lambda: b"[" * 2_000_000, "nested deeper than 1,000"),
    "deep_row.jsonl": (
        lambda: b'{"text": ' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}",
        "nested deeper than 64",
    ),
    "deep_rows.jsonl": (
        lambda: (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}\n") * 10_000,
        "nested deeper than 64",
    ),
    "long_row.jsonl": (lambda: b'{"text": "' + b"x" * 30_000_000 + b'"}\n', "longer than 8 MB"),
    "long_line.txt": (lambda: b"x" * 60_000_000, "longer than 8 MB"),
    "long_cell.csv": (
        lambda: b'question,answer\na,"' + b"x" * 30_000_000 + b'"\n',
        "a quote is opened and not closed",
    ),
    "open_quote.json": (
        lambda: b'[{"text": "' + b"x, " * 20_000_000,
        "is longer than 16 MB, or one of its quotes",
    ),
    "open_quotes.csv": (
        lambda: b"question,answer\n" + b'a,"b\n"c,d\n' * 2_000_000,
        "a quote is opened and not closed",
    ),
    "columns.jsonl": (lambda: json.dumps({f"c{i}": 1 for i in range(600)}).encode(), "more than 512 columns"),
    "columns.csv": (lambda: b",".join(b"c%d" % i for i in range(600)) + b"\n", "600 columns; at most 512"),
    "wide.csv": (lambda: b"c," * 200_000 + b"\n", "200,001 columns; at most 512"),
    "other_columns.jsonl": (
        lambda: b"".join(b'{"column_%d": "text"}\n' % i for i in range(300_000)),
        "and 188 more says which text is the prompt",
    ),
    "nothing.txt": (lambda: b"\n" * 60_000_000, "is empty"),
    "nothing.jsonl": (lambda: GOOD[:-1] + b" " * 60_000_000, "longer than 8 MB"),
    "zeros.jsonl": (lambda: bytes(60_000_000), "is binary, not text"),
    "bomb.jsonl.gz": (lambda: gzip.compress(GOOD * 2_000_000, 6), "unpacks to more than 200 times its size"),
    "bomb.jsonl.xz": (lambda: lzma.compress(GOOD * 2_000_000, preset=1), "unpacks to more than 200 times"),
    "bomb.jsonl.bz2": (lambda: bz2.compress(GOOD * 30_000) * 60, "unpacks to more than 200 times its size"),
    "bomb.jsonl.zst": (
        lambda: pa.compress(GOOD * 2_000_000, codec="zstd", asbytes=True),
        "unpacks to more than",
    ),
    "spaces.txt.gz": (lambda: gzip.compress(b"a\n" + b" " * 60_000_000, 6), "unpacks to more than 200 times"),
    "members.gz": (lambda: gzip.compress(b"") * 2_000_000, "1,000 empty gzip streams in a row"),
    "bomb.parquet": (lambda: parquet({"text": one_text_many_times()}), "more than 200 times its size"),
    "bomb.arrow": (lambda: arrow({"text": one_text_many_times()}), "more than 200 times its size"),
    "packed.arrow": (
        lambda: arrow({"text": ["x" * 100_000_000] * 8, "id": list(range(8))}, compression="zstd"),
        "more than 200 times its size",
    ),
    "utf_16.txt": (lambda: b"\xff\xfe" + b"x\x00" * 30_000_000, "longer than 8 MB"),
    "cut.jsonl.gz": (lambda: gzip.compress(GOOD + os.urandom(5_000_000).hex().encode())[:-9], "is cut off"),
}


@pytest.mark.fault(30)
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_ends_in_words(reader: Reader, tmp_path: Path, name: str) -> None:  # D1 D6
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content())

    refused, seconds = _asked(reader, tmp_path / name)

    assert isinstance(refused, reading.Refused)
    assert name in refused.error.message
    assert words in refused.error.message
    assert seconds < MOST_SECONDS
    assert _most_memory(reader) < MOST_MEMORY
    _still_works(reader, tmp_path)


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/zero", "is a device, not a file"),
        ("pipe", "is a pipe, not a file"),
        ("hole", "is too large: 30.0 GB"),
    ],
)
def test_what_is_no_file_or_never_ends_is_refused(
    reader: Reader, tmp_path: Path, path: str, words: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(30_000_000_000)

    refused, seconds = _asked(reader, tmp_path / path)

    assert isinstance(refused, reading.Refused)
    assert words in refused.error.message
    assert seconds < MOST_SECONDS
    _still_works(reader, tmp_path)


def _still_works(reader: Reader, folder: Path) -> None:
    (folder / "good.jsonl").write_bytes(GOOD)
    imported, _ = _asked(reader, folder / "good.jsonl")
    assert isinstance(imported, reading.DataImported)
    left = [path.name for path in Path(imported.dataset).parent.iterdir() if path.name.startswith(".")]
    assert left == []  # no staging of the file before


def _asked(reader: Reader, path: Path) -> tuple[reading.ReaderAnswer, float]:
    return asked(reader, reading.ImportData(id=1, data=DataConfig(path=str(path))))


def _most_memory(reader: Reader) -> int:
    status = Path(f"/proc/{reader.pid}/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024
