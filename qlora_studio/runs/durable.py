"""The few file operations a run folder is written with: whole or absent, private, and through no link.

Everything here raises OSError as it comes; `space.py` turns it into words. A failed write, fsync or close is
never tried again on the same file (R10): what failed is dropped, and the caller may write anew.
"""

# `os` and nothing else, so that tests can stand between these calls and the disk
# ruff: noqa: PTH102, PTH104, PTH105, PTH108

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import rmtree

FILE_MODE = 0o600
FOLDER_MODE = 0o700
LONGEST_LINE = 1_000_000  # bytes, as in the protocol

_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not hang
_BINARY: int = getattr(os, "O_BINARY", 0)
_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def write_file_durably(path: Path, data: bytes) -> None:
    """`path` holds either what it held, or all of `data`, at any moment and after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_new_file(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(path.parent)


def drop_torn(path: Path) -> None:
    """What a writer that was killed left of `path` beside it. Raises: OSError."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        os.unlink(temporary)


def write_new_file(path: Path, data: bytes) -> None:
    """A file that must not exist yet, on the disk when this returns."""
    write_new_blocks(path, (data,))


def write_new_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """As `write_new_file`, for what is too much to be held at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, FILE_MODE)
    with synced_and_closed(descriptor):
        for block in blocks:
            _write_all(descriptor, block)


def fsync_folder(folder: Path) -> None:
    """Makes names in `folder` outlive a power cut."""
    if os.name == "nt":
        return  # Windows gives no handle for this; NTFS journals its names
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with synced_and_closed(descriptor):
        pass


def make_folder(folder: Path) -> None:
    """A private folder that must not exist yet, in a parent that must."""
    os.mkdir(folder, FOLDER_MODE)
    fsync_folder(folder.parent)


def rename_durably(source: Path, target: Path) -> None:
    """Both in the same folder. A folder never replaces one that holds files."""
    os.rename(source, target)
    fsync_folder(target.parent)


def remove_file(path: Path) -> None:
    """One name; what a link points to stays."""
    os.unlink(path)


def remove_folder(folder: Path) -> None:
    """Deletes a real folder and all in it; a link in it is removed, what it points to is not (R11)."""
    if not is_real_folder(folder):
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder, or a link", str(folder))
    rmtree(folder)


def is_real_folder(path: Path) -> bool:
    """A folder, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def open_to_read(path: Path) -> int:
    """The descriptor of a regular file that is no link. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT | _BINARY)
    return _regular(descriptor, path)


def open_to_sync(path: Path) -> int:
    """As `open_to_read`, and good for fsync on every system; makes the file private."""
    descriptor = _regular(os.open(path, os.O_RDWR | _NO_FOLLOW | _NO_WAIT | _BINARY), path)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, FILE_MODE)
    return descriptor


def open_lock_file(path: Path) -> int:
    """An empty file that stays; made where it is missing."""
    return _regular(os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW | _NO_WAIT | _BINARY, FILE_MODE), path)


def sync_file(path: Path) -> None:
    """Puts a file that a library wrote on the disk, and makes it private."""
    with synced_and_closed(open_to_sync(path)):
        pass


def read_file(path: Path, largest: int) -> bytes:
    """All bytes of a regular file that is no link. Raises: OSError, also where it is larger."""
    with open(open_to_read(path), "rb", buffering=0) as file:  # buffering=0: one read, no copy
        data = bytearray()
        while len(data) <= largest and (block := file.read(largest + 1 - len(data))):
            data += block
    if len(data) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest:,} bytes", str(path))
    return bytes(data)


def read_end(path: Path, most: int) -> tuple[bytes, bool]:
    """The last bytes of a regular file that is no link, and whether others lie before. Raises: OSError."""
    with open(open_to_read(path), "rb", buffering=0) as file:
        before = max(0, os.fstat(file.fileno()).st_size - most)
        file.seek(before)
        data = bytearray()
        while block := file.read(most - len(data)):
            data += block
    return bytes(data), before > 0


@contextlib.contextmanager
def synced_and_closed(descriptor: int) -> Iterator[None]:
    """What was written in the block is on the disk when it ends. Raises: OSError; nothing is tried twice."""
    try:
        yield
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)  # a close that fails is a write that failed


class LineAppender:
    """A file that only grows, by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _NO_WAIT | _BINARY
        self._descriptor: int | None = _regular(os.open(path, flags, FILE_MODE), path)
        try:
            self._end_a_torn_line()
        except OSError:
            self.close()
            raise

    def append(self, line: bytes) -> None:
        """Raises: OSError; the appender is then closed, and the file without the part that was written."""
        if not line.endswith(b"\n") or line.count(b"\n") != 1 or len(line) > LONGEST_LINE:
            raise ValueError("not one whole line")
        descriptor = self._open_descriptor()
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            with contextlib.suppress(OSError):  # readers skip a torn line as well
                os.ftruncate(descriptor, size)
            with contextlib.suppress(OSError):
                self.close()
            raise

    def sync(self) -> None:
        """Puts what was appended on the disk. Raises: OSError; the appender is then closed."""
        try:
            os.fsync(self._open_descriptor())
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def close(self) -> None:
        """May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "it was closed after an error", str(self.path))
        return self._descriptor

    def _end_a_torn_line(self) -> None:
        """Whoever wrote last may have been killed in a line; the next line must not be glued to it."""
        descriptor = self._open_descriptor()
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size == 0:
            return
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            _write_all(descriptor, b"\n")


def is_bare_name(name: str) -> bool:
    """Whether `name` can only mean a file in the folder it is put in, on every system (S12)."""
    if not name or len(name.encode("utf-8", "surrogatepass")) > 255 or name.strip(". ") == "":
        return False
    if any(character in '/\\:*?"<>|' or not character.isprintable() for character in name):
        return False
    return name[-1] not in ". " and name.split(".")[0].rstrip().lower() not in _DEVICE_NAMES


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _regular(descriptor: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file", str(path))
