"""The file operations under every promise about run folders."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path

import pytest

from qlora_studio.runs import durable
from qlora_studio.runs.durable import (
    LineAppender,
    is_bare_name,
    read_end,
    read_file,
    remove_folder,
    write_file_durably,
)
from tests.faults.disk import KilledError, disk, losing_disk


@pytest.mark.fault(10)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone", "kill", "short"])
def test_a_file_is_old_or_new_whatever_call_fails(tmp_path: Path, fault: str) -> None:  # R6, R10
    file = tmp_path / "state.json"
    for call in itertools.count(1):
        file.write_bytes(b"old")
        with disk(call, fault) as faulty:
            said_done = _tried(lambda: write_file_durably(file, b"new and longer"))
        assert file.read_bytes() in (b"old", b"new and longer")
        if said_done:
            assert file.read_bytes() == b"new and longer"
        if not faulty.fired:
            break
    assert call > 5


@pytest.mark.fault(2)
@pytest.mark.parametrize("share_kept", [0.0, 0.5])
def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path, share_kept: float) -> None:  # R6
    for call in itertools.count(1):
        root, graveyard = tmp_path / f"root-{call}", tmp_path / f"graveyard-{call}"
        root.mkdir(), graveyard.mkdir()
        (root / "state.json").write_bytes(b"old")
        with losing_disk(call, root, graveyard) as losing:
            said_done = _tried(lambda root=root: write_file_durably(root / "state.json", b"new and longer"))
        losing.cut_power(share_kept)
        left = (root / "state.json").read_bytes()
        assert left == b"new and longer" if said_done else left in (b"old", b"new and longer")
        if not losing.fired:
            break


@pytest.mark.fault(10)
def test_a_failed_fsync_is_never_tried_again_on_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R10
    synced: list[int] = []

    def failing_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(durable.os, "fsync", failing_fsync)
    for _ in range(2):
        with pytest.raises(OSError, match="I/O error"):
            write_file_durably(tmp_path / "state.json", b"new")
    assert len(synced) == 2
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:  # S12
    before = os.umask(0)
    try:
        write_file_durably(tmp_path / "file", b"")
        durable.make_folder(tmp_path / "folder")
        LineAppender(tmp_path / "lines").close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o600, "folder": 0o700, "lines": 0o600}


def test_a_line_after_a_torn_one_stands_alone(tmp_path: Path) -> None:  # R5
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step":1}\n{"st')
    appender = LineAppender(file)
    appender.append(b'{"step":2}\n')
    appender.close()
    assert file.read_bytes().split(b"\n") == [b'{"step":1}', b'{"st', b'{"step":2}', b""]


@pytest.mark.fault(9)
def test_a_line_that_does_not_fit_leaves_no_part_behind(tmp_path: Path) -> None:  # R9
    file = tmp_path / "metrics.jsonl"
    appender = LineAppender(file)
    appender.append(b"one\n")
    with disk(1, "ENOSPC"), pytest.raises(OSError, match="No space"):
        appender.append(b"a longer line\n")
    assert file.read_bytes() == b"one\n"
    with pytest.raises(OSError, match="closed"):
        appender.append(b"two\n")


@pytest.mark.parametrize("line", [b"", b"no end", b"two\nlines\n", b"x" * 1_000_000 + b"\n"])
def test_only_one_whole_line_is_written_at_a_time(tmp_path: Path, line: bytes) -> None:  # R5
    appender = LineAppender(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="one whole line"):
        appender.append(line)


def test_links_pipes_and_large_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "real", 5) == b"12345"
    assert [read_end(tmp_path / "real", most) for most in (5, 2)] == [(b"12345", False), (b"45", True)]
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            read_end(tmp_path / name, 5)
    for name, largest in (("link", 5), ("pipe", 5), ("real", 4)):
        with pytest.raises(OSError):
            read_file(tmp_path / name, largest)


def test_no_link_is_deleted_through(tmp_path: Path) -> None:  # R11
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"")
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        remove_folder(tmp_path / "link")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").symlink_to(elsewhere)
    remove_folder(folder)
    assert (elsewhere / "precious").exists()


def test_a_bare_name_means_a_file_in_its_folder_on_every_system() -> None:  # S12
    good = ["adapter_model.safetensors", "Grüße.json", "a b.txt", ".hidden"]
    bad = [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "C:x",
        "nul",
        "COM1.txt",
        "a\n",
        "x\x00",
        "end.",
        "end ",
        "\u202ex",
        "x" * 256,
    ]
    assert [name for name in good if not is_bare_name(name)] == []
    assert [name for name in bad if is_bare_name(name)] == []


def _tried(action) -> bool:
    try:
        action()
    except (OSError, KilledError):
        return False
    return True
