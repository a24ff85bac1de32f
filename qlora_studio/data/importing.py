"""Data from outside becomes rows on disk, each record counted as imported, skipped or merged."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.data_files import DataFiles, data_files
from qlora_studio.data.dataset import ImportedSet, RowFile, imported_set, told_today, write_import
from qlora_studio.data.file_hash import FileHash
from qlora_studio.data.file_records import FileRecords
from qlora_studio.data.findings import Tally, file_findings, ignored_files
from qlora_studio.data.formats import Layout
from qlora_studio.data.intake import Intake
from qlora_studio.data.late_columns import LateColumnError
from qlora_studio.data.layout import Guess, find_layout
from qlora_studio.data.limits import MAX_TEXT_BYTES
from qlora_studio.data.path_text import path_text
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.data.rows_writer import RowsWriter
from qlora_studio.data.source_file import SourceFile, Told
from qlora_studio.data.turned_file import COPIED_BYTES
from qlora_studio.errors import StudioError

IMPORTER_VERSION = 7  # raised when the same bytes would give other rows or findings

_STAGING = ".importing-"
_TELL_EVERY_S = 0.1
_ABANDONED_S = 24 * 3600  # what an import that was killed left behind is then removed


@dataclass(frozen=True)
class Imported:
    """Where the rows lie (`dataset.open_dataset`), and what was counted."""

    dataset: Path
    report: ImportReport


def import_data(data: DataConfig, told: Told) -> Imported:
    """The rows of `data.path` alone, without its recipe (`data_set.py`).

    From the cache where the same bytes were read in the same way before.

    Raises: StudioError naming the file, where nothing of it can be used.
    """
    chosen = data_files(data.path)
    with ExitStack() as opened:
        sources = [opened.enter_context(SourceFile(path)) for path in chosen.files]
        _refuse_too_much(sources)
        hashed = opened.enter_context(FileHash(sources))
        place = _Place(cache_folder() / "datasets", _way_of_reading(chosen, sources, data))
        if place.may_hold_it:  # else reading need not wait for the hash
            folder = place.folder(hashed.result(told))
            if cached := imported_set(folder):
                return Imported(folder, _found_again(folder, cached, chosen, sources))
        return _import_anew(data, chosen, sources, hashed, place, told)


def _found_again(
    folder: Path, cached: ImportedSet, chosen: DataFiles, sources: Sequence[SourceFile]
) -> ImportReport:
    """The same bytes may lie elsewhere now: note where, so that a row's source is found."""
    others = [finding for finding in cached.report.findings if finding.kind != "ignored"]
    report = msgspec.structs.replace(
        cached.report, path=_shown_path(chosen), findings=(*others, *ignored_files(chosen.ignored))
    )
    files = [_row_file(source, old.copy) for source, old in zip(sources, cached.files, strict=True)]
    return told_today(folder, cached, files, report)


@dataclass(frozen=True)
class _Place:
    """Where imported rows lie. `way`: of all that decides about them but the bytes."""

    datasets: Path
    way: str

    @property
    def may_hold_it(self) -> bool:
        """Whether files of these sizes were read in this way before."""
        return any(self.datasets.glob(f"{self.way}-*"))

    def folder(self, sha256: str) -> Path:
        """Of files with this hash."""
        return self.datasets / f"{self.way}-{sha256[:32]}"


def _import_anew(
    data: DataConfig,
    chosen: DataFiles,
    sources: list[SourceFile],
    hashed: FileHash,
    place: _Place,
    told: Told,
) -> Imported:
    staging = None
    try:
        place.datasets.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place.datasets)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=place.datasets))
        report = _write_rows(data, chosen, sources, hashed, staging, told)
        for source in sources:
            if not source.unchanged():
                raise StudioError(f"{source.name} changed while it was read.", hint="Import it again.")
        folder = place.folder(report.sha256)
        _put_in_place(staging, folder)
    except OSError as error:  # of the cache: what the source does wrong is a StudioError already
        raise StudioError(
            f"The imported rows can't be written to {path_text(place.datasets)}: {error.strerror or error}.",
            hint="Free some space there, or move the cache.",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return Imported(folder, report)


def _put_in_place(staging: Path, folder: Path) -> None:
    if imported_set(folder) is not None:
        return  # another import of the same file was faster; its rows are the same
    shutil.rmtree(folder, ignore_errors=True)  # what is left of a damaged one
    staging.rename(folder)


def _remove_abandoned(datasets: Path) -> None:
    for staging in datasets.glob(f"{_STAGING}*"):
        try:
            abandoned = time.time() - staging.stat().st_mtime > _ABANDONED_S
        except OSError:
            continue  # finished in this moment
        if abandoned:
            shutil.rmtree(staging, ignore_errors=True)


def _write_rows(
    data: DataConfig,
    chosen: DataFiles,
    sources: list[SourceFile],
    hashed: FileHash,
    staging: Path,
    told: Told,
) -> ImportReport:
    copied = COPIED_BYTES // len(sources)
    files = []
    for index, source in enumerate(sources):
        told(0, 0, f"Looking at {source.path.name}")
        copy = staging / f"text-{index}"
        files.append(FileRecords(source, copy, data.encoding, data.map.values(), copied))
        files[-1].rest()
    late: list[list[Any]] = [[] for _ in files]
    while True:
        guesses = _guesses(files, late, data)
        with RowsWriter(staging) as writer:
            intake = Intake(writer, told, sum(source.size for source in sources))
            if not _take_all(intake, files, guesses, late, data):
                continue  # from the beginning, as each of these columns is one more that is known
            intake.finish()
            _refuse_nothing(intake.tally, _shown_path(chosen))
            arrow_bytes = writer.finish()
            break
    report = _report(data, chosen, files, guesses, hashed.result(told), intake.tally, writer.rows)
    row_files = tuple(
        _row_file(file.source, f"text-{index}" if file.copied else "") for index, file in enumerate(files)
    )
    write_import(
        staging, ImportedSet(rows=writer.rows, arrow_bytes=arrow_bytes, files=row_files, report=report)
    )
    return report


def _guesses(files: Sequence[FileRecords], late: Sequence[list[Any]], data: DataConfig) -> list[Guess]:
    found = []
    for file, records in zip(files, late, strict=True):
        found.append(_guess(file, records, data))
        file.rest()
    _refuse_different_formats(files, found)
    return found


def _take_all(
    intake: Intake,
    files: Sequence[FileRecords],
    guesses: Sequence[Guess],
    late: Sequence[list[Any]],
    data: DataConfig,
) -> bool:
    """False where a record has a column that counts and wasn't known: it is in `late` then."""
    for index, (file, guess) in enumerate(zip(files, guesses, strict=True)):
        known = {*guess.columns, *(column for record in late[index] for column in record)}
        columns = () if data.map or "JSON" not in file.kind else known
        try:
            intake.take(file, guess.layout, index, columns)
        except LateColumnError as error:
            late[index].append(error.record)
            return False
        finally:
            file.rest()
        _refuse_too_much_text(files[: index + 1])
    return True


def _guess(file: FileRecords, late: Sequence[Any], data: DataConfig) -> Guess:
    if file.rows_are and data.format in ("auto", "text") and not data.map:
        return Guess(Layout("text", {}), (), file.rows_are)
    every = data.alternatives == "all"
    return find_layout([*file.sample(), *late], data.format, data.map, file.source.name, all_answers=every)


def _refuse_too_much(sources: Sequence[SourceFile]) -> None:
    size = sum(source.size for source in sources)
    if size > MAX_TEXT_BYTES:
        raise StudioError(
            f"These files hold {size / 1e9:.1f} GB; at most {MAX_TEXT_BYTES / 1e9:.0f} GB are read at once."
        )


def _refuse_too_much_text(files: Sequence[FileRecords]) -> None:
    if sum(file.text_bytes for file in files) > MAX_TEXT_BYTES:
        raise StudioError(
            f"These files unpack to more than {MAX_TEXT_BYTES / 1e9:.0f} GB of text.",
            hint="Import some of them at a time.",
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
        f"{path}: no row can be used. {worst.count:,} of {tally.rows_in:,}: {worst.reason}, "
        f"first in line {worst.line:,}.",
        hint="Choose the format or the columns by hand, or another file.",
    )


def _report(
    data: DataConfig,
    chosen: DataFiles,
    files: list[FileRecords],
    guesses: list[Guess],
    sha256: str,
    tally: Tally,
    rows: int,
) -> ImportReport:
    guess = guesses[0]
    return ImportReport(
        path=_shown_path(chosen),
        rows_in=tally.rows_in,
        imported=tally.imported,
        skipped=tally.skipped,
        merged=tally.merged,
        conversations=rows,
        format=guess.layout.format,
        encoding=", ".join(sorted({file.encoding for file in files})),
        sha256=sha256,
        problems=tally.problems(),
        findings=(*_of_the_files(tally, files, guesses, chosen, data.encoding), *tally.findings()),
        columns=guess.columns,
        map=dict(guess.layout.map),
        guess=guess.reason,
        left_out=tally.left_out,
    )


def _of_the_files(
    tally: Tally, files: list[FileRecords], guesses: list[Guess], chosen: DataFiles, encoding: str
) -> tuple[Finding, ...]:
    return file_findings(
        tally,
        encoding=encoding,
        encodings=[file.encoding for file in files],
        mismatches=[file.mismatch for file in files],
        headless=sum(file.headless for file in files),
        guesses=[guess.reason for guess in guesses if not guess.sure],
        held_out=chosen.held_out,
        ignored=chosen.ignored,
    )


def _row_file(source: SourceFile, copy: str) -> RowFile:
    return RowFile(path=os.fsencode(source.path), size=source.size, modified_ns=source.modified_ns, copy=copy)


def _shown_path(chosen: DataFiles) -> str:
    return path_text(chosen.folder or chosen.files[0])


def _way_of_reading(chosen: DataFiles, sources: Sequence[SourceFile], data: DataConfig) -> str:
    sizes = sorted(source.size for source in sources)
    asked = (
        IMPORTER_VERSION,
        sizes,
        data.format,
        sorted(data.map.items()),
        data.alternatives,
        data.encoding,
        chosen.names,
    )
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]
