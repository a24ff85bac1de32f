"""A disk that fails, cuts or kills at call n: stands between `runs.durable` and the operating system.

A test loops n upward until nothing fires any more, and looks at what is left on the disk each time.
"""

# It stands for `os`, so it speaks its names
# ruff: noqa: PTH102, PTH104, PTH105, PTH108, PTH208

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.runs import durable


class KilledError(BaseException):
    """The process is gone: nothing it does from here on reaches the disk."""


class FaultyDisk:
    """`os` with a fault at call number `at`, counted from 1. Unknown names are those of the real `os`."""

    def __init__(self, at: int, fault: str) -> None:
        """fault: an errno by name, once; "gone": EIO from then on; "kill"; "short": a write takes half."""
        self.at = at
        self.fault = fault
        self.calls = 0
        self._after: Callable[[], None] = lambda: None

    @property
    def fired(self) -> bool:
        """Whether the fault was reached."""
        return self.calls >= self.at

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        half = bytes(data[: len(data) // 2])
        if self.fault == "short" and self.calls + 1 == self.at and half:
            self.calls += 1
            return os.write(descriptor, half)
        self._count(lambda: os.write(descriptor, half))
        return os.write(descriptor, data)

    def open(self, *arguments: Any) -> int:
        self._count()
        return os.open(*arguments)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)  # gone in any case, also where it reports an error
        self._count()

    def fsync(self, descriptor: int) -> None:
        self._count()
        os.fsync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._count()
        os.ftruncate(descriptor, size)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        os.rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._count()
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        self._count()
        os.unlink(path)

    def mkdir(self, *arguments: Any) -> None:
        self._count()
        os.mkdir(*arguments)

    def rmtree(self, folder: Path) -> None:
        """A deletion that the fault stops half-way."""
        names = sorted(os.listdir(folder))
        self._count(lambda: [os.unlink(folder / name) for name in names[: len(names) // 2]])
        shutil.rmtree(folder)

    def _count(self, before_the_fault: Callable[[], object] = lambda: None) -> None:
        self.calls += 1
        if self.calls < self.at or self.fault == "short":
            return
        if self.calls == self.at:
            before_the_fault()
        if self.fault == "kill":
            raise KilledError
        if self.calls == self.at or self.fault == "gone":
            number = getattr(errno, self.fault, errno.EIO)
            raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def disk(at: int, fault: str) -> Iterator[FaultyDisk]:
    """What goes through `runs.durable` in the block meets this disk."""
    faulty = FaultyDisk(at, fault)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", faulty)
        patch.setattr(durable, "rmtree", faulty.rmtree)
        yield faulty


class LosingDisk(FaultyDisk):
    """A disk that forgets at a power cut what was not fsynced: bytes by their file, names by their folder."""

    def __init__(self, at: int, root: Path, graveyard: Path) -> None:
        super().__init__(at, "kill")
        self._root = root
        self._graveyard = graveyard  # holds on to files that lose their last name
        self._sizes: dict[int, int] = {}  # inode -> bytes on the disk
        self._names: dict[int, dict[str, int]] = {}  # inode of a folder -> name on the disk -> inode
        for folder, _, names in os.walk(root):
            self._remember_names(Path(folder))
            for name in names:
                found = (Path(folder) / name).stat()
                self._sizes[found.st_ino] = found.st_size

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._remember_names(path)
        else:
            self._sizes[path.stat().st_ino] = path.stat().st_size

    def mkdir(self, *arguments: Any) -> None:
        super().mkdir(*arguments)
        self._names[Path(arguments[0]).stat().st_ino] = {}  # the inode may have been another folder's

    def rmtree(self, folder: Path) -> None:
        inode = folder.stat().st_ino
        super().rmtree(folder)
        for folder_inode, names in self._names.items():
            self._names[folder_inode] = {name: known for name, known in names.items() if known != inode}

    def cut_power(self, share_kept: float) -> None:
        """Leaves what is on the disk then; of bytes that were not fsynced a share, of such names none."""
        for folder in self._folders():
            names = self._names.get(folder.stat().st_ino, {})
            for path in folder.iterdir():
                if names.get(path.name) != path.lstat().st_ino:
                    self._bury(path)
        for folder in reversed(self._folders()):
            for name, inode in self._names.get(folder.stat().st_ino, {}).items():
                if not (folder / name).exists() and (place := self._place_of(inode)):
                    place.rename(folder / name)
        for path in self._root.rglob("*"):
            if path.is_file():
                kept = self._sizes.get(path.stat().st_ino, 0)
                os.truncate(path, kept + int((path.stat().st_size - kept) * share_kept))

    def _folders(self) -> list[Path]:
        """The deepest first."""
        inside = [path for path in self._root.rglob("*") if path.is_dir()]
        return sorted([self._root, *inside], key=lambda path: len(path.parts), reverse=True)

    def _bury(self, path: Path) -> None:
        grave = self._graveyard / str(path.lstat().st_ino)
        if grave.exists():
            path.unlink()
        else:
            path.rename(grave)

    def _place_of(self, inode: int) -> Path | None:
        grave = self._graveyard / str(inode)
        here = (path for path in self._root.rglob("*") if path.lstat().st_ino == inode)
        return grave if grave.exists() else next(here, None)

    def _remember_names(self, folder: Path) -> None:
        names = {}
        for path in folder.iterdir():
            names[path.name] = path.lstat().st_ino
            if path.is_file():
                with contextlib.suppress(FileExistsError):
                    os.link(path, self._graveyard / str(path.stat().st_ino))
        self._names[folder.stat().st_ino] = names


@contextlib.contextmanager
def losing_disk(at: int, root: Path, graveyard: Path) -> Iterator[LosingDisk]:
    """As `disk`; after the block, `cut_power` shows what a power cut at call `at` leaves."""
    losing = LosingDisk(at, root, graveyard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", losing)
        patch.setattr(durable, "rmtree", losing.rmtree)
        yield losing
