"""The hash of files: of their bytes as they lie there, and remembered only as long as they surely stay so."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from qlora_studio.data import file_hash
from qlora_studio.data.file_hash import FileHash
from qlora_studio.data.source_file import SourceFile

DAY_S = 24 * 3600


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day has passed since the files were written."""
    now_ns: Callable[[], int] = time.time_ns
    monkeypatch.setattr(file_hash.time, "time_ns", lambda: now_ns() + DAY_S * 10**9)


def test_it_is_sha_256_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "rows.jsonl").write_bytes(content)

    assert hash_of(tmp_path / "rows.jsonl") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_folder_does_not_depend_on_the_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    assert hash_of(tmp_path / "a", tmp_path / "b") == hash_of(tmp_path / "b", tmp_path / "a")


@pytest.mark.skipif(os.name == "nt", reason="the system doesn't tell every change")
def test_it_is_remembered(tmp_path: Path, later: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows").write_text("a")
    first = hash_of(tmp_path / "rows")
    monkeypatch.delattr(SourceFile, "read_into")

    assert hash_of(tmp_path / "rows") == first


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, later: None) -> None:  # D2
    file = tmp_path / "rows"
    file.write_text("a")
    before = hash_of(file)
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    time.sleep(0.05)  # longer than a tick of the file system's clock
    file.write_text("b")
    os.utime(file, ns=times)

    assert before != hash_of(file) == hashlib.sha256(b"b").hexdigest()


def test_a_file_written_a_moment_ago_is_hashed_again(tmp_path: Path, home: Path) -> None:  # D2
    (tmp_path / "rows").write_text("a")
    hash_of(tmp_path / "rows")

    assert not (home / "cache" / "hashes").exists()


@pytest.mark.parametrize("kept", ["", "0" * 63, "é" * 64, "0" * 64 + "\n"])
def test_what_is_no_hash_in_the_cache_is_taken_anew(
    tmp_path: Path, home: Path, later: None, kept: str
) -> None:
    (tmp_path / "rows").write_text("a")
    first = hash_of(tmp_path / "rows")
    for file in (home / "cache" / "hashes").glob("*"):
        file.write_text(kept, "utf-8")

    assert hash_of(tmp_path / "rows") == first


def hash_of(*files: Path) -> str:
    with ExitStack() as opened:
        sources = [opened.enter_context(SourceFile(file)) for file in files]
        hashed = opened.enter_context(FileHash(sources))
        return hashed.result(lambda done, total, words: None)
