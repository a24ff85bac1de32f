"""What a checkpoint must hold, to the byte: a list of its files, written last and verified before use."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qlora_studio.runs.durable import (
    is_bare_name,
    is_real_folder,
    open_to_read,
    open_to_sync,
    read_file,
    synced_and_closed,
    write_new_file,
)

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1

_LARGEST_MANIFEST = 1_000_000  # bytes; ours has about 600
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
_WORTH_A_LOOK = 1 << 30  # bytes: so much is looked at before all of it is read
_LEAST_HELD = 0.1  # of a file's bytes: weights are no zeros, and no disk packs them so tightly
_MOST_PIECES = 10_000  # of a file that is looked through for holes

Told = Callable[[int, int, str], None]  # done, total, words for a person


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a checkpoint."""

    name: str
    size: int  # bytes
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All files of a checkpoint but the manifest itself."""

    schema_version: int = SCHEMA_VERSION
    step: int
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a checkpoint is whole and unchanged; if not, the reason names the file."""

    sound: bool
    reason: str = ""


class _Unsound(Exception):
    """Carries the reason out of a check."""


def step_name(step: int) -> str:
    """The folder name of a checkpoint."""
    return f"step-{step:06d}"


def write_manifest(folder: Path, step: int) -> Manifest:
    """Puts every file of `folder` on the disk, then the list of them. Raises: OSError."""
    manifest = Manifest(step=step, files=sync_files(folder))
    write_new_file(folder / MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def sync_files(folder: Path) -> tuple[FileEntry, ...]:
    """Puts every file of a flat folder on the disk, makes it private, and measures it. Raises: OSError."""
    return tuple(_sync_and_measure(path) for path in sorted(folder.iterdir()))


def verify_checkpoint(folder: Path, told: Told = lambda done, total, words: None) -> Verdict:
    """Reads every byte that the manifest lists, and opens nothing else (R2)."""
    return _verdict(folder, told)


def verify_sizes(folder: Path) -> Verdict:
    """As `verify_checkpoint`, by names and sizes alone: quick, and blind to changed bytes."""
    return _verdict(folder, None)


def _verdict(folder: Path, told: Told | None) -> Verdict:
    """told: where the contents are read too."""
    try:
        manifest = _read_manifest(folder)
        _compare_names(folder, manifest)
        for entry in manifest.files:
            _compare_size(folder, entry)
        if told is not None:
            _refuse_holes(folder, manifest)
            _compare_all_contents(folder, manifest, told)
    except _Unsound as reason:
        return Verdict(False, str(reason))
    return Verdict(True)


def _read_manifest(folder: Path) -> Manifest:
    if not is_real_folder(folder):
        raise _Unsound(f"{folder.name} is no folder, or a link")
    try:
        data = read_file(folder / MANIFEST_FILE, _LARGEST_MANIFEST)
    except FileNotFoundError:
        raise _Unsound(f"{MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise _Unsound(f"{MANIFEST_FILE} can't be read: {error.strerror}") from None
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise _Unsound(f"{MANIFEST_FILE} was written by a newer version (schema {version})")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _Unsound(f"{MANIFEST_FILE} is damaged") from None
    if step_name(manifest.step) != folder.name:
        raise _Unsound(f"{MANIFEST_FILE} is that of step {manifest.step:,}")
    if not manifest.files:
        raise _Unsound(f"{MANIFEST_FILE} lists no files")
    return manifest


class _Version(msgspec.Struct):
    schema_version: int


def _compare_names(folder: Path, manifest: Manifest) -> None:
    listed = Counter(entry.name for entry in manifest.files)
    for name, times in listed.items():
        if not is_bare_name(name) or name == MANIFEST_FILE or times > 1:
            raise _Unsound(f"{MANIFEST_FILE} lists {name!r}")
    try:
        found = {entry.name for entry in os.scandir(folder)} - {MANIFEST_FILE}
    except OSError as error:
        raise _Unsound(f"{folder.name} can't be read: {error.strerror}") from None
    for name in sorted(set(listed) - found):
        raise _Unsound(f"{name} is missing")
    for name in sorted(found - set(listed)):
        raise _Unsound(f"{name!r} does not belong here")


def _compare_size(folder: Path, entry: FileEntry) -> None:
    try:
        found = os.lstat(folder / entry.name)
    except OSError as error:
        raise _Unsound(f"{entry.name} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise _Unsound(f"{entry.name} is no regular file")
    if found.st_size != entry.size:
        raise _Unsound(f"{entry.name} has {found.st_size:,} bytes, not {entry.size:,}")


def _refuse_holes(folder: Path, manifest: Manifest) -> None:
    """A few bytes on a disk can be files of terabytes, which would be read as zeros for hours."""
    if sum(entry.size for entry in manifest.files) < _WORTH_A_LOOK:
        return
    for entry in manifest.files:
        if entry.size < _BLOCK:
            continue
        try:
            descriptor = open_to_read(folder / entry.name)
            try:
                held = _bytes_held(descriptor, entry.size, int(entry.size * _LEAST_HELD))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _Unsound(f"{entry.name} can't be read: {error.strerror}") from None
        if held < entry.size * _LEAST_HELD:
            raise _Unsound(f"{entry.name} is empty but for {held:,} of its {entry.size:,} bytes")


def _bytes_held(descriptor: int, size: int, enough: int) -> int:
    """Of a file, those that the disk holds; counted up to `enough`, all of them where no holes are known."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    held = end = 0
    for _ in range(_MOST_PIECES):
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            return held if error.errno == errno.ENXIO else size  # the rest is a hole; or none are known here
        held += end - start
        if held >= enough:
            break
    return held


def _compare_all_contents(folder: Path, manifest: Manifest, told: Told) -> None:
    total = sum(entry.size for entry in manifest.files)
    done = 0
    for entry in manifest.files:
        before = done

        def read(size: int, before: int = before) -> None:
            told(before + size, total, f"Reading step {manifest.step:,}")

        _compare_contents(folder, entry, read)
        done += entry.size


def _compare_contents(folder: Path, entry: FileEntry, read: Callable[[int], None]) -> None:
    try:
        descriptor = open_to_read(folder / entry.name)
        try:
            if entry.size > _WORTH_A_LOOK and entry.name.endswith(".safetensors"):
                _look_at_header(descriptor, entry)
            size, sha256 = _measure(descriptor, read)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _Unsound(f"{entry.name} can't be read: {error.strerror}") from None
    if (size, sha256) != (entry.size, entry.sha256):
        raise _Unsound(f"{entry.name} has changed since it was saved")


def _look_at_header(descriptor: int, entry: FileEntry) -> None:
    head = os.read(descriptor, 9)
    if int.from_bytes(head[:8], "little") > entry.size or head[8:] != b"{":
        raise _Unsound(f"{entry.name} has changed since it was saved: it is no safetensors file")
    os.lseek(descriptor, 0, os.SEEK_SET)


def _sync_and_measure(path: Path) -> FileEntry:
    descriptor = open_to_sync(path)  # hashed as it will be read again, whatever wrote it
    with synced_and_closed(descriptor):
        size, sha256 = _measure(descriptor)
    return FileEntry(name=path.name, size=size, sha256=sha256)


def _measure(descriptor: int, read: Callable[[int], None] = lambda size: None) -> tuple[int, str]:
    """Size and SHA-256. `read` is told how many bytes were."""
    digest = hashlib.sha256()
    size = 0
    block = bytearray(_BLOCK)  # one for all: a new one for each took longer than reading it
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while True:
            for zeros in _hole_at(descriptor, size):
                digest.update(zeros)
                size += len(zeros)
                read(size)
            count = file.readinto(block)
            if not count:
                return size, digest.hexdigest()
            digest.update(memoryview(block)[:count])
            size += count
            read(size)


def _hole_at(descriptor: int, offset: int) -> Iterator[bytes]:
    """Zeros that a file has there without holding them: they need not be read. It then stands behind them."""
    if not hasattr(os, "SEEK_DATA"):
        return
    try:
        end = os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:  # nothing but zeros to its end; or no holes are known here
        end = os.lseek(descriptor, 0, os.SEEK_END) if error.errno == errno.ENXIO else offset
        end = os.lseek(descriptor, max(end, offset), os.SEEK_SET)
    while offset < end:
        yield _ZEROS[: end - offset]
        offset += _BLOCK
