"""Case after case is read, and what must hold of each is looked at; what breaks it is kept as a folder."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from qlora_studio.config.run_config import DataConfig
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from tests.faults.odd_data import OTHER, ROW, lines
from tests.faults.reader_process import Reader, a_reader, asked
from tests.fuzz.kinds import KINDS, Files, Kind, case_of

MOST_SECONDS = 15
MOST_MEMORY_KB = 2 * 1024**2
LONGEST_MESSAGE = 10_000
_GOOD_EVERY = 50  # cases: between them a good file must be imported


@dataclass
class Hunt:
    """What was seen of one kind. crashes: the folder of each that broke a promise, and how."""

    kind: str
    seed: int
    cases: int = 0
    taken: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    most_memory_kb: int = 0
    crashes: list[tuple[Path, str]] = field(default_factory=list)


def hunt(
    name: str, seed: int, kept: Path, work: Path, *, seconds: float = 0, cases: int = 0, first: int = 0
) -> Hunt:
    """Reads spoiled files of a kind until the time is over, or as many as asked for.

    kept:  where folders of cases that broke a promise are put
    work:  an empty folder for all else
    first: number of the first case: kind, seed and number decide what it is
    """
    kind, found = KINDS[name], Hunt(name, seed)
    (work / "good").mkdir(parents=True)
    good = kind.good(work / "good")
    end = time.monotonic() + seconds
    with _Reading(kind, work) as reading_:
        while found.cases < cases if cases else time.monotonic() < end:
            number = first + found.cases
            files, spoiled = case_of(kind, good, Random(f"{name} {seed} {number}"))
            folder = _written(files, work / "case")
            start = time.monotonic()
            problem = reading_.problem_with(folder, spoiled, found) or _changed(folder, files)
            found.slowest_s = max(found.slowest_s, time.monotonic() - start)
            found.cases += 1
            if not problem and found.cases % _GOOD_EVERY == 0:
                problem = reading_.problem_after()
            if problem:
                crash = kept / f"{name}-{seed}-{number}"
                shutil.copytree(folder, crash, dirs_exist_ok=True)
                found.crashes.append((crash, problem))
        found.most_memory_kb = max(found.most_memory_kb, reading_.most_memory_kb)
    return found


class _Reading:
    """Whoever reads the files of a kind: a reader, started anew where it died, or a function here."""

    def __init__(self, kind: Kind, work: Path) -> None:
        self._kind = kind
        self._work = work
        self._readers = contextlib.ExitStack()
        self._reader: Reader | None = None
        self.most_memory_kb = 0

    def __enter__(self) -> _Reading:
        self._good = self._work / "rows.jsonl"
        self._good.write_bytes(lines(ROW, OTHER))
        if self._kind.ask:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.close()

    def problem_with(self, folder: Path, spoiled: str, found: Hunt) -> str:
        """What must not be; empty where all is well."""
        if self._kind.read is not None:
            return _problem_of_call(self._kind, folder, spoiled, found)
        assert self._kind.ask is not None
        answer = self._asked(self._kind.ask(folder, spoiled))
        if isinstance(answer, str):
            return answer
        if not isinstance(answer, reading.Refused):
            found.taken += 1
            return _problem_of_counts(answer)
        found.refused += 1
        return _problem_of_words(answer.error.message, answer.error.hint, folder)

    def problem_after(self) -> str:
        """Whether a good file is still imported."""
        if self._reader is None:
            return ""
        answer = self._asked(reading.ImportData(id=1, data=DataConfig(path=str(self._good))))
        if isinstance(answer, reading.DataImported) and answer.report.imported == 2:
            return ""
        return f"a good file is no longer imported: {answer}"

    def _asked(self, request: reading.ReaderRequest) -> reading.ReaderAnswer | str:
        """The answer, or why there is none."""
        assert self._reader is not None
        watch = threading.Timer(MOST_SECONDS, self._reader.kill)
        watch.start()
        try:
            answer, _ = asked(self._reader, request)
        except AssertionError as died:
            self._start()
            return f"the reader died: {str(died)[-2000:]}"
        finally:
            watch.cancel()
        memory = _memory_kb(self._reader.pid)
        self.most_memory_kb = max(self.most_memory_kb, memory)
        if memory > MOST_MEMORY_KB:
            self._start()
            return f"the reader took {memory:,} kB"
        return answer

    def _start(self) -> None:
        self._readers.close()
        self._reader = self._readers.enter_context(a_reader(self._work / "home"))


def _problem_of_call(kind: Kind, folder: Path, spoiled: str, found: Hunt) -> str:
    assert kind.read is not None
    try:
        with _in_time():
            kind.read(folder, spoiled)
    except StudioError as error:
        found.refused += 1
        return _problem_of_words(error.message, error.hint, folder)
    except Exception:  # noqa: BLE001 - what it is looked for
        return traceback.format_exc()
    found.taken += 1
    return ""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Raises: TimeoutError in what takes too long, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _problem_of_counts(answer: reading.ReaderAnswer) -> str:
    if not isinstance(answer, reading.DataImported):
        return ""
    report = answer.report
    if report.rows_in != report.imported + report.skipped + report.merged:  # D3
        return f"rows are lost: {report.rows_in} in, {report.imported}, {report.skipped}, {report.merged}"
    return ""


def _problem_of_words(message: str, hint: str, folder: Path) -> str:
    """R16: what, where and what to do."""
    if "could not be answered" in message or "bug" in hint:
        return f"an error that nobody foresaw: {message}"
    if str(folder) not in message and "memory" not in message:
        return f"the refusal names no file: {message}"
    return f"a message of {len(message):,} characters" if len(message) > LONGEST_MESSAGE else ""


def _written(files: Files, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _changed(folder: Path, files: Files) -> str:
    """D2: nothing of the input is written to, nor anything beside it."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    others = [name for name in found.keys() | files.keys() if found.get(name) != files.get(name)]
    return f"files were changed: {sorted(others)}" if others else ""


def _memory_kb(pid: int) -> int:
    """The most that a process ever held; 0 where the system doesn't say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
