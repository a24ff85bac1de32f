"""The hash of files' bytes, taken beside other work, and remembered while the files stay as they are."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from qlora_studio.config.places import cache_folder
from qlora_studio.data.path_text import path_text
from qlora_studio.data.source_file import SourceFile, Told

_CHUNK_BYTES = 1 << 18  # stays in the processor's cache between reading and hashing
_TELL_EVERY_S = 0.1
_SETTLED_S = 2  # a file that changed a moment ago may change again within the same tick of its clock


class FileHash:
    """SHA-256 of a file; of several files over their names and hashes. A thread of its own takes it."""

    def __init__(self, sources: Sequence[SourceFile]) -> None:
        self._sources = sources
        self._total = sum(source.size for source in sources)
        self._done = 0
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._future: Future[str] = self._thread.submit(self._take)

    def __enter__(self) -> FileHash:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.shutdown()

    def result(self, told: Told) -> str:
        """Waits for it. Raises: StudioError where a file can't be read."""
        while not wait([self._future], _TELL_EVERY_S).done:
            told(self._done, self._total, "Reading the file")
        return self._future.result()

    def _take(self) -> str:
        hashes = [self._of(source) for source in self._sources]
        if len(hashes) == 1:
            return hashes[0]
        names = (path_text(Path(source.path.name)) for source in self._sources)
        lines = sorted(f"{hash_}  {name}\n" for hash_, name in zip(hashes, names, strict=True))
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()

    def _of(self, source: SourceFile) -> str:
        place = _place_of(source)
        if place is not None and (known := _read(place)):
            self._done += source.size
            return known
        digest, at, buffer = hashlib.sha256(), 0, bytearray(_CHUNK_BYTES)
        while not self._stopped.is_set() and (size := source.read_into(buffer, at)):
            digest.update(memoryview(buffer)[:size])
            at += size
            self._done += size
        if place is not None and at == source.size and source.unchanged():
            _write(place, digest.hexdigest())
        return digest.hexdigest()


def _place_of(source: SourceFile) -> Path | None:
    """Where the hash of this file is kept, as it is now; None where the system doesn't tell all changes."""
    status = source.status
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    if os.name == "nt" or abs(time.time_ns() - changed_ns) < _SETTLED_S * 1e9:
        return None
    about = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    name = hashlib.sha256(os.fsencode(source.path) + repr(about).encode()).hexdigest()
    return cache_folder() / "hashes" / name


def _read(place: Path) -> str:
    try:
        text = place.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch("[0-9a-f]{64}", text) else ""


def _write(place: Path, text: str) -> None:
    staging = place.with_name(f".staging-{os.getpid()}-{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text, "ascii")
        staging.replace(place)
    except OSError:
        staging.unlink(missing_ok=True)  # it is only taken again
