"""Several data sets in one: all their rows, each once; how often a row is seen is decided by the seed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.config.places import cache_folder
from qlora_studio.data.dataset import (
    ImportedSet,
    RowFile,
    imported_set,
    open_dataset,
    told_today,
    write_import,
)
from qlora_studio.data.importing import Imported
from qlora_studio.data.limits import LISTED_LINES, MAX_ROWS
from qlora_studio.data.marked_rows import Marked, equal_rows
from qlora_studio.data.path_text import path_text
from qlora_studio.data.recipe import link_file
from qlora_studio.data.report import Finding, ImportReport, PartReport, SkipReason
from qlora_studio.data.rows_writer import RowsWriter
from qlora_studio.errors import StudioError

MIX_VERSION = 2  # raised when the same data sets would give another mixture

_EQUAL = "equal_across_sets"
_STAGING = ".importing-"
_PURPOSE = 2  # another draw than those of the split and of an epoch with this seed

Told = Callable[[int, int, str], None]


def mixed(parts: Sequence[MixPart], imported: Sequence[Imported], told: Told) -> Imported:
    """One data set with the rows of all, in the order of the parts. Raises: StudioError."""
    rows = [part.report.conversations for part in imported]
    if sum(rows) > MAX_ROWS:
        raise StudioError(f"Together these data sets have {sum(rows):,} rows; at most {MAX_ROWS:,} are read.")
    names = [part.dataset.name for part in imported]
    key = hashlib.sha256(msgspec.json.encode((MIX_VERSION, names))).hexdigest()[:32]
    folder = cache_folder() / "datasets" / f"mix-{key}"
    sets = [_imported_set(part) for part in imported]
    files = [file for number, one in enumerate(sets) for file in _files(number, one)]
    if cached := imported_set(folder):
        return _as_asked(folder, cached, parts, imported, files)
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder.parent))
        _write(parts, imported, sets, files, staging, told)
        if imported_set(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
    except OSError as error:
        raise StudioError(
            f"The mixture can't be written to {path_text(folder.parent)}: {error.strerror or error}.",
            hint="Free some space there, or move the cache.",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    written = imported_set(folder)
    assert written is not None
    return Imported(folder, written.report)


def times_seen(report: ImportReport, weights: Sequence[float], rows: int, seed: int) -> NDArray[np.int64]:
    """How often each row is seen in an epoch; without a mixture every row once.

    Of a weight of 1.5 every row once, and half of them, by `seed`, once more.
    """
    times = np.ones(rows, dtype=np.int64)
    for number, (part, weight) in enumerate(zip(report.parts, weights, strict=True)):
        whole = int(weight)
        more = round((weight - whole) * part.rows)
        random = np.random.Generator(np.random.PCG64([seed, _PURPOSE, number]))
        of_part = np.full(part.rows, whole, dtype=np.int64)
        of_part[random.permutation(part.rows)[:more]] += 1
        times[part.first_row : part.first_row + part.rows] = of_part
    return times


def _imported_set(imported: Imported) -> ImportedSet:
    found = imported_set(imported.dataset)
    if found is None:
        raise StudioError("The imported rows are gone from the cache.", hint="Import the files again.")
    return found


def _files(number: int, part: ImportedSet) -> Iterator[RowFile]:
    for file in part.files:
        yield msgspec.structs.replace(file, copy=f"{number}-{file.copy}") if file.copy else file


def _as_asked(
    folder: Path,
    cached: ImportedSet,
    parts: Sequence[MixPart],
    imported: Sequence[Imported],
    files: Sequence[RowFile],
) -> Imported:
    """The rows are there; the files may lie elsewhere now, and the weights may be others."""
    own = tuple(finding for finding in cached.report.findings if finding.kind == _EQUAL)
    first_rows = [part.first_row for part in cached.report.parts]
    report = _report(parts, [one.report for one in imported], first_rows, own)
    return Imported(folder, told_today(folder, cached, files, report))


def _write(
    parts: Sequence[MixPart],
    imported: Sequence[Imported],
    sets: Sequence[ImportedSet],
    files: Sequence[RowFile],
    staging: Path,
    told: Told,
) -> None:
    datasets = [open_dataset(one.dataset) for one in imported]
    total = sum(len(dataset) for dataset in datasets)
    first_rows, first_file = [], 0
    with RowsWriter(staging) as writer:
        for number, (dataset, one) in enumerate(zip(datasets, sets, strict=True)):
            first_rows.append(writer.rows)
            for batch in dataset.batches():
                told(writer.rows, total, "Mixing the data sets")
                writer.add_batch(_of_later_files(batch, first_file))
            for file in one.files:
                if file.copy:
                    link_file(imported[number].dataset / file.copy, staging / f"{number}-{file.copy}")
            first_file += len(one.files)
        arrow_bytes = writer.finish()
    told(total, total, "Comparing the data sets")
    equal = equal_rows(batch for dataset in datasets for batch in dataset.batches())
    report = _report(parts, [one.report for one in imported], first_rows, tuple(_equal_rows(equal)))
    write_import(
        staging,
        ImportedSet(rows=writer.rows, arrow_bytes=arrow_bytes, files=tuple(files), report=report),
    )


def _of_later_files(batch: Any, first_file: int) -> Any:
    at = batch.schema.get_field_index("file")
    numbers = batch.column(at).to_numpy(zero_copy_only=False).astype(np.int16) + np.int16(first_file)
    return batch.set_column(at, batch.schema.field(at), pa.array(numbers, pa.int16()))


def _report(
    parts: Sequence[MixPart],
    reports: Sequence[ImportReport],
    first_rows: Sequence[int],
    own: tuple[Finding, ...],
) -> ImportReport:
    """own: what was found in the mixture, beside what was in its parts."""
    return ImportReport(
        path=_path(reports),
        rows_in=sum(report.rows_in for report in reports),
        imported=sum(report.imported for report in reports),
        skipped=sum(report.skipped for report in reports),
        merged=sum(report.merged for report in reports),
        conversations=sum(report.conversations for report in reports),
        format=", ".join(sorted({report.format for report in reports})),
        encoding=", ".join(sorted({report.encoding for report in reports})),
        sha256="+".join(report.sha256 for report in reports),
        problems=tuple(_problems(reports)),
        findings=(*own, *_findings(reports, first_rows)),
        left_out=sum(report.left_out for report in reports),
        parts=tuple(
            PartReport(
                path=report.path,
                weight=part.weight,
                first_row=first,
                rows=report.conversations,
                sha256=report.sha256,
                left_out_by_fixes=report.left_out_by_fixes,
            )
            for part, report, first in zip(parts, reports, first_rows, strict=True)
        ),
    )


def _path(reports: Sequence[ImportReport]) -> str:
    return " + ".join(report.path for report in reports)


def _problems(reports: Sequence[ImportReport]) -> Iterator[SkipReason]:
    for report in reports:
        for problem in report.problems:
            yield msgspec.structs.replace(
                problem,
                reason=f"{Path(report.path).name}: {problem.reason}",
                lines=problem.lines[: _listed(reports)],
            )


def _listed(reports: Sequence[ImportReport]) -> int:
    """Numbers of each kind and data set: the whole report is one message of at most 1 MB."""
    return max(1, LISTED_LINES // len(reports))


def _equal_rows(equal: Marked) -> Iterator[Finding]:
    count = len(equal.rows)
    if count:
        yield Finding(
            kind=_EQUAL,
            tone="warn",
            count=count,
            words=f"{count:,} {'row equals' if count == 1 else 'rows equal'} an earlier one of the mixture",
            why="What is seen several times is learned as many times harder.",
            rows=tuple(equal.rows[:LISTED_LINES].tolist()),
            groups=equal.first_groups(),
            fix=Fix(kind="equal_rows"),
            fix_words=f"Leave out {count:,} {'copy' if count == 1 else 'copies'}",
        )


def _findings(reports: Sequence[ImportReport], first_rows: Sequence[int]) -> Iterator[Finding]:
    for report, first in zip(reports, first_rows, strict=True):
        for finding in report.findings:
            yield msgspec.structs.replace(
                finding,
                words=f"{Path(report.path).name}: {finding.words}",
                rows=tuple(first + row for row in finding.rows[: _listed(reports)]),
                groups=(),  # no import finds any
            )
