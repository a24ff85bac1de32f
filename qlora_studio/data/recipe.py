"""A recipe: fixes of imported rows, one after the other, as a further data set in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data import text_signs
from qlora_studio.data.dataset import (
    ImportedSet,
    RowFile,
    imported_set,
    open_dataset,
    told_today,
    write_import,
)
from qlora_studio.data.importing import Imported
from qlora_studio.data.marked_rows import MARKS_VERSION, marked_rows
from qlora_studio.data.near_rows import NEAR_VERSION
from qlora_studio.data.other_file import import_test
from qlora_studio.data.path_text import path_text
from qlora_studio.data.report import Finding, FixCount, ImportReport, PartReport
from qlora_studio.data.rows_writer import RowsWriter
from qlora_studio.errors import StudioError

RECIPE_VERSION = 1  # raised when the same rows and the same recipe would give other rows

_ORIGINS = "origins.npy"  # of each row left, its number in the data set as it was imported
_STAGING = ".importing-"  # as an import's: what was left behind by one that was killed is removed with them

Told = Callable[[int, int, str], None]


def mended(imported: Imported, recipe: Sequence[Fix], data: DataConfig, told: Told) -> Imported:
    """The rows that the recipe leaves. The same rows and the same recipe always give the same.

    data: how the rows were read: the file of a fix is read like them

    Raises: StudioError where it leaves none, or names a row or a file that isn't there.
    """
    if not recipe:
        return imported
    folder = imported.dataset.with_name(f"{imported.dataset.name}-{_key(recipe, data, told)}")
    base = imported_set(imported.dataset)
    if base is None:
        raise StudioError("The imported rows are gone from the cache.", hint="Import the file again.")
    if (cached := imported_set(folder)) and (origins := _origins(folder, cached.rows)) is not None:
        return Imported(folder, _report_of_today(folder, cached, base, imported.report, origins))
    return Imported(folder, _mend_anew(imported, base, recipe, data, folder, told))


def _key(recipe: Sequence[Fix], data: DataConfig, told: Told) -> str:
    """Of the recipe, of the rows of files that it names, and of how fixes work today."""
    files = [import_test(fix.path, fix.encoding, data, told).dataset.name for fix in recipe if fix.path]
    versions = (RECIPE_VERSION, MARKS_VERSION, NEAR_VERSION, text_signs.SIGNS_VERSION)
    return hashlib.sha256(msgspec.json.encode((versions, recipe, files))).hexdigest()[:16]


def _mend_anew(
    imported: Imported,
    base: ImportedSet,
    recipe: Sequence[Fix],
    data: DataConfig,
    folder: Path,
    told: Told,
) -> ImportReport:
    staging = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder.parent))
        report = _write(imported, base, recipe, data, staging, told)
        there = imported_set(folder)
        if there is None or _origins(folder, there.rows) is None:
            shutil.rmtree(folder, ignore_errors=True)  # what is left of a damaged one
            staging.rename(folder)
    except OSError as error:
        raise StudioError(
            f"The mended rows can't be written to {path_text(folder.parent)}: {error.strerror or error}.",
            hint="Free some space there, or move the cache.",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return report


def _write(
    imported: Imported,
    base: ImportedSet,
    recipe: Sequence[Fix],
    data: DataConfig,
    staging: Path,
    told: Told,
) -> ImportReport:
    rows = _Rows(imported.dataset, base.rows, data)
    counts = [rows.mend(fix, told) for fix in recipe]
    if not len(rows):
        raise StudioError(
            f"The fixes leave no row of {imported.report.path}.", hint="Take one of them out of the recipe."
        )
    with RowsWriter(staging) as writer:
        for batch in rows.batches():
            told(writer.rows, len(rows), "Writing the mended rows")
            writer.add_batch(batch)
        arrow_bytes = writer.finish()
    _bring_copies(base.files, imported.dataset, staging)
    np.save(staging / _ORIGINS, rows.origins, allow_pickle=False)
    report = _report(imported.report, counts, rows.origins)
    write_import(
        staging, ImportedSet(rows=writer.rows, arrow_bytes=arrow_bytes, files=base.files, report=report)
    )
    return report


def _origins(folder: Path, rows: int) -> NDArray[np.int64] | None:
    """None where they are gone, or aren't those of so many rows."""
    try:
        found: NDArray[np.int64] = np.load(folder / _ORIGINS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows,) and found.dtype == np.int64 else None


def _report_of_today(
    folder: Path,
    cached: ImportedSet,
    base: ImportedSet,
    before: ImportReport,
    origins: NDArray[np.int64],
) -> ImportReport:
    """The rows are there; files may lie elsewhere now, and the weights of a mixture may be others."""
    counts = cached.report.fixes[len(before.fixes) :]
    return told_today(folder, cached, base.files, _report(before, counts, origins))


class _Rows:
    """The rows of a data set that the fixes so far have left, mended as they come.

    data:    how they were read
    origins: int64, their numbers in the data set as it was imported, in order
    """

    def __init__(self, folder: Path, rows: int, data: DataConfig) -> None:
        self._dataset = open_dataset(folder)
        self._data = data
        self.origins: NDArray[np.int64] = np.arange(rows)
        self.folder: Path | None = folder  # beside which findings are kept; None once anything was changed
        self._mends_encoding = False

    def __len__(self) -> int:
        return len(self.origins)

    def batches(self) -> Iterator[Any]:
        first = at = 0
        for batch in self._dataset.batches():
            end = int(np.searchsorted(self.origins, first + batch.num_rows))
            if end > at:
                kept = self.origins[at:end] - first
                batch_left = batch if len(kept) == batch.num_rows else batch.take(pa.array(kept))
                yield _with_mended_texts(batch_left) if self._mends_encoding else batch_left
            first, at = first + batch.num_rows, end

    def mend(self, fix: Fix, told: Told) -> FixCount:
        """From now on without the rows that the fix leaves out."""
        if fix.kind == "rows":
            left_out = self._places(fix)
        else:
            marked = marked_rows(self, fix, self._data, told)
            left_out = marked.left_out
            if fix.kind == "broken_encoding":
                self._mends_encoding = True
                return self._changed(FixCount(fix, 0, len(marked.rows)))
        self.origins = np.delete(self.origins, left_out)
        return self._changed(FixCount(fix, len(left_out)))

    def _changed(self, count: FixCount) -> FixCount:
        if count.left_out or count.mended:
            self.folder = None
        return count

    def _places(self, fix: Fix) -> NDArray[np.int64]:
        """Where rows stand now that are named by their first numbers; those that are gone don't count."""
        if max(fix.rows) >= len(self._dataset):
            raise StudioError(
                f"The recipe leaves out row {max(fix.rows):,}, and there are {len(self._dataset):,} rows.",
                hint="It was made for another file, or the file has changed.",
            )
        return np.flatnonzero(np.isin(self.origins, np.array(fix.rows, dtype=np.int64)))


def _with_mended_texts(batch: Any) -> Any:
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in ("messages", "rejected"):
            column = _mended_messages(column)
        elif name == "text":
            column = _mended_texts(column)
        columns.append(column)
    return pa.record_batch(columns, schema=batch.schema)


def _mended_messages(column: Any) -> Any:
    flat = column.flatten()
    contents = flat.field("content")
    better = _mended_texts(contents)
    if better is contents:
        return column
    parts = [better if field.name == "content" else flat.field(field.name) for field in flat.type]
    starts = np.concatenate([[0], np.cumsum(pc.fill_null(column.value_lengths(), 0).to_numpy())])
    structs = pa.StructArray.from_arrays(parts, fields=list(flat.type))
    return pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()), structs, type=column.type, mask=column.is_null()
    )


def _mended_texts(texts: Any) -> Any:
    """The column itself where nothing in it is to be mended."""
    pattern = text_signs.ENCODING.pattern
    at = pc.indices_nonzero(pc.match_substring_regex(texts, pattern=pattern)).to_pylist()
    found = {index: text_signs.mended_encoding(texts[index].as_py()) for index in at}
    changed = {index: text for index, text in found.items() if text != texts[index].as_py()}
    if not changed:
        return texts
    mask = np.zeros(len(texts), dtype=bool)
    mask[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(list(changed.values()), pa.string()))


def _bring_copies(files: Sequence[RowFile], folder: Path, staging: Path) -> None:
    """A file's text as UTF-8, where it has one in the data set's folder, so that a row's source is found."""
    for file in files:
        if file.copy:
            link_file(folder / file.copy, staging / file.copy)


def link_file(file: Path, to: Path) -> None:
    """A second name for it, or a copy where the disk has no links."""
    with contextlib.suppress(OSError):
        os.link(file, to)
        return
    shutil.copyfile(file, to)


def _report(report: ImportReport, counts: Sequence[FixCount], origins: NDArray[np.int64]) -> ImportReport:
    return msgspec.structs.replace(
        report,
        conversations=len(origins),
        fixes=(*report.fixes, *counts),
        findings=tuple(_findings_left(report.findings, {count.fix for count in counts}, origins)),
        parts=tuple(_parts_left(report.parts, origins)),
    )


def _findings_left(
    findings: Sequence[Finding], done: Collection[Fix], origins: NDArray[np.int64]
) -> Iterator[Finding]:
    """With the rows' new numbers. What was mended, or counted only rows that are gone, is gone too."""
    for finding in findings:
        if finding.fix in done:
            continue
        rows = _places_of(finding.rows, origins)
        groups = tuple(left for group in finding.groups if len(left := _places_of(group, origins)) > 1)
        if len(rows) == len(finding.rows) and _sizes(groups) == _sizes(finding.groups):
            yield msgspec.structs.replace(finding, rows=rows, groups=groups)
        elif (rows and (groups or not finding.groups)) or finding.count > len(finding.rows):
            yield msgspec.structs.replace(
                finding,
                rows=rows,
                groups=groups,
                words=f"{finding.words}, before the fixes",
                fix_words="Leave out what is left of them" if finding.fix else "",
            )


def _sizes(groups: Sequence[Sequence[int]]) -> list[int]:
    return [len(group) for group in groups]


def _places_of(rows: Sequence[int], origins: NDArray[np.int64]) -> tuple[int, ...]:
    """Where those of these rows that are left stand now."""
    listed = np.array(rows, dtype=np.int64)
    at = np.searchsorted(origins, listed)
    there = (at < len(origins)) & (origins[np.minimum(at, len(origins) - 1)] == listed)
    return tuple(at[there].tolist())


def _parts_left(parts: Sequence[PartReport], origins: NDArray[np.int64]) -> Iterator[PartReport]:
    for part in parts:
        first, last = np.searchsorted(origins, (part.first_row, part.first_row + part.rows)).tolist()
        yield msgspec.structs.replace(part, first_row=first, rows=last - first)
