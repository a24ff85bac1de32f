"""Data from outside becomes rows on disk, each record counted as imported, skipped or merged."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.data_files import DataFiles, data_files
from qlora_studio.data.dataset import RowFile, RowsWriter, imported_set, move_files
from qlora_studio.data.file_records import FileRecords
from qlora_studio.data.findings import Tally, file_findings
from qlora_studio.data.formats import Convert, Layout, converter
from qlora_studio.data.layout import Guess, find_layout
from qlora_studio.data.limits import LISTED_LINES, MAX_ROW_BYTES, MAX_ROWS, MAX_TEXT_BYTES
from qlora_studio.data.path_text import path_text
from qlora_studio.data.record import Conversation, Record, RecordError, SpellingNeededError, spelled
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.data.source_file import SourceFile, Told
from qlora_studio.data.strict_json import parse_spelled
from qlora_studio.errors import StudioError

IMPORTER_VERSION = 1  # raised when the same bytes would give other rows

_STAGING = ".importing-"
_TELL_EVERY_S = 0.1
_ABANDONED_S = 24 * 3600  # what an import that was killed left behind is then removed


@dataclass(frozen=True)
class Imported:
    """Where the rows lie (`dataset.open_dataset`), and what was counted."""

    dataset: Path
    report: ImportReport


def import_data(data: DataConfig, told: Told) -> Imported:
    """The rows of `data.path`, from the cache where the same bytes were read in the same way before.

    Raises: StudioError naming the file, where nothing of it can be used.
    """
    if data.mix:
        raise StudioError("data.mix is refused: mixing several files isn't built yet in this version.")
    chosen = data_files(data.path)
    with ExitStack() as opened:
        sources = [opened.enter_context(SourceFile(path)) for path in chosen.files]
        _refuse_too_much(sources)
        sha256 = _sha256(sources, told)
        folder = cache_folder() / "datasets" / _cache_key(sha256, chosen, data)
        cached = imported_set(folder)
        if cached is None:
            return _import_anew(data, chosen, sources, sha256, folder, told)
        files = tuple(
            RowFile(path=os.fsencode(s.path), size=s.size, modified_ns=s.modified_ns) for s in sources
        )
        return Imported(folder, move_files(folder, cached, files, _shown_path(chosen)))


def _import_anew(
    data: DataConfig, chosen: DataFiles, sources: list[SourceFile], sha256: str, folder: Path, told: Told
) -> Imported:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder.parent))
    try:
        report = _write_rows(data, chosen, sources, sha256, staging, told)
        for source in sources:
            if not source.unchanged():
                raise StudioError(f"{source.name} changed while it was read.", hint="Import it again.")
        shutil.rmtree(folder, ignore_errors=True)  # only ever what is left of a damaged one
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported(folder, report)


def _remove_abandoned(datasets: Path) -> None:
    for staging in datasets.glob(f"{_STAGING}*"):
        try:
            abandoned = time.time() - staging.stat().st_mtime > _ABANDONED_S
        except OSError:
            continue  # finished in this moment
        if abandoned:
            shutil.rmtree(staging, ignore_errors=True)


def _write_rows(
    data: DataConfig, chosen: DataFiles, sources: list[SourceFile], sha256: str, staging: Path, told: Told
) -> ImportReport:
    files = [FileRecords(source, staging / f"text-{index}", told) for index, source in enumerate(sources)]
    guesses = [_guess(file, data) for file in files]
    _refuse_different_formats(files, guesses)
    rows = _Rows(RowsWriter(staging), told, sum(source.size for source in sources))
    for index, (file, guess) in enumerate(zip(files, guesses, strict=True)):
        rows.take(file, guess.layout, index)
    rows.note_merged()
    _refuse_nothing(rows.tally, _shown_path(chosen))
    report = _report(chosen, files, guesses, sha256, rows.tally)
    rows.writer.finish([_row_file(file, index) for index, file in enumerate(files)], report)
    return report


def _guess(file: FileRecords, data: DataConfig) -> Guess:
    if file.rows_are and data.format in ("auto", "text") and not data.map:
        return Guess(Layout("text", {}), (), file.rows_are)
    return find_layout(file.sample(), data.format, data.map, file.source.name)


class _Rows:
    """Records in, rows out: each is converted, compared with those before it, and counted."""

    def __init__(self, writer: RowsWriter, told: Told, bytes_in_all: int) -> None:
        self.writer = writer
        self.tally = Tally()
        self._told = told
        self._bytes_in_all = bytes_in_all
        self._bytes_before = 0
        self._told_at = 0.0
        self._seen: set[bytes] = set()
        self._digests = array("Q")  # the first half of each imported row's, in their order
        self._merged: list[bytes] = []  # digests of the first rows that were there before

    def take(self, file: FileRecords, layout: Layout, index: int) -> None:
        """All records of a file."""
        convert = converter(layout)
        for record in file.records(layout.map.values()):
            try:
                conversation = _conversation(record, convert)
            except RecordError as reason:
                self.tally.skip(str(reason), record.place.line)
            else:
                self._add(conversation, record, index)
            if time.monotonic() - self._told_at > _TELL_EVERY_S:
                self._tell(record.place.offset)
        self._bytes_before += file.source.size
        self._tell(0)

    def _add(self, conversation: Conversation, record: Record, index: int) -> None:
        digest = _digest(conversation)
        if digest in self._seen:
            self.tally.merged += 1
            if len(self._merged) < LISTED_LINES:
                self._merged.append(digest)
            return
        if self.writer.rows >= MAX_ROWS:
            raise StudioError(
                f"There are more than {MAX_ROWS:,} rows.",
                hint="Split the file, and train on its parts in turn.",
            )
        self._seen.add(digest)
        self._digests.append(int.from_bytes(digest[:8], "little"))
        for note in conversation.notes:
            self.tally.note(note, self.writer.rows)
        self.writer.add(conversation, record.place, index)
        self.tally.imported += 1

    def note_merged(self) -> None:
        """Tell the tally which rows others were equal to, as far as they are listed."""
        wanted = np.array([int.from_bytes(digest[:8], "little") for digest in self._merged], dtype=np.uint64)
        self.tally.equal_rows = np.flatnonzero(
            np.isin(np.frombuffer(self._digests, np.uint64), wanted)
        ).tolist()

    def _tell(self, offset: int) -> None:
        self._told_at = time.monotonic()
        done = self._bytes_before + max(0, offset)
        self._told(done, self._bytes_in_all, f"{self.tally.rows_in:,} rows read")


def _conversation(record: Record, convert: Convert) -> Conversation:
    if isinstance(record.value, RecordError):
        raise record.value
    try:
        conversation = convert(record.value)
    except SpellingNeededError:
        value = spelled(record.value) if record.json is None else parse_spelled(record.json)
        conversation = convert(value)
    characters = sum(len(message.content) for message in conversation.messages) + len(conversation.text or "")
    if characters > MAX_ROW_BYTES:
        raise RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB")
    return conversation


def _digest(conversation: Conversation) -> bytes:
    content = (conversation.messages, conversation.text, conversation.tools)
    return xxhash.xxh3_128_digest(msgspec.msgpack.encode(content))


def _refuse_too_much(sources: Sequence[SourceFile]) -> None:
    size = sum(source.size for source in sources)
    if size > MAX_TEXT_BYTES:
        raise StudioError(
            f"These files hold {size / 1e9:.1f} GB; at most {MAX_TEXT_BYTES / 1e9:.0f} GB are read at once."
        )


def _refuse_different_formats(files: Sequence[FileRecords], guesses: Sequence[Guess]) -> None:
    first = guesses[0].layout.format
    for file, guess in zip(files, guesses, strict=True):
        if guess.layout.format != first:
            raise StudioError(
                f"{files[0].source.name} holds {first} rows, "
                f"{file.source.name} holds {guess.layout.format} rows.",
                hint="Import one of them, or put each format in a folder of its own.",
            )


def _refuse_nothing(tally: Tally, path: str) -> None:
    if tally.imported:
        return
    if not tally.rows_in:
        raise StudioError(f"{path} holds no rows.", hint="Choose a file with rows in it.")
    worst = tally.problems()[0]
    raise StudioError(
        f"{path}: none of the {tally.rows_in:,} rows can be used. "
        f"{worst.count:,} were skipped for: {worst.reason}, first in line {worst.line:,}.",
        hint="Choose the format or the columns by hand, or another file.",
    )


def _report(
    chosen: DataFiles, files: list[FileRecords], guesses: list[Guess], sha256: str, tally: Tally
) -> ImportReport:
    guess = guesses[0]
    return ImportReport(
        path=_shown_path(chosen),
        rows_in=tally.rows_in,
        imported=tally.imported,
        skipped=tally.skipped,
        merged=tally.merged,
        conversations=tally.imported,
        format=guess.layout.format,
        encoding=", ".join(sorted({file.encoding for file in files})),
        sha256=sha256,
        problems=tally.problems(),
        findings=(*_of_the_files(tally, files, guesses, chosen), *tally.findings()),
        columns=guess.columns,
        map=dict(guess.layout.map),
        guess=guess.reason,
    )


def _of_the_files(
    tally: Tally, files: list[FileRecords], guesses: list[Guess], chosen: DataFiles
) -> tuple[Finding, ...]:
    return file_findings(
        tally,
        encodings=[file.encoding for file in files],
        mismatches=[file.mismatch for file in files],
        guesses=[guess.reason for guess in guesses if not guess.sure],
        held_out=chosen.held_out,
    )


def _row_file(file: FileRecords, index: int) -> RowFile:
    source = file.source
    copy = f"text-{index}" if file.copied else ""
    return RowFile(path=os.fsencode(source.path), size=source.size, modified_ns=source.modified_ns, copy=copy)


def _shown_path(chosen: DataFiles) -> str:
    return path_text(chosen.folder or chosen.files[0])


def _sha256(sources: Sequence[SourceFile], told: Told) -> str:
    """Of the file's bytes; of several files, over their names and hashes."""
    if len(sources) == 1:
        return sources[0].sha256(told)
    lines = sorted(f"{source.sha256(told)}  {path_text(Path(source.path.name))}\n" for source in sources)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def _cache_key(sha256: str, chosen: DataFiles, data: DataConfig) -> str:
    asked = (IMPORTER_VERSION, sha256, data.format, sorted(data.map.items()), chosen.names)
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:40]
