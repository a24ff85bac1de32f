"""`data`'s doctor: what is odd about the rows, which fix mends it, and a mended copy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from qlora_studio.cli.children import Reader
from qlora_studio.cli.output import print_text
from qlora_studio.config.data_parts import USUALLY_ALIKE, Fix, FixKind
from qlora_studio.config.encodings import ENCODINGS, encoding_named
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.limits import MOST_UNASKED
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading

_KINDS = [kind for kind in get_args(FixKind) if kind != "rows"]


def add_options(data: argparse.ArgumentParser) -> None:
    """Of `qlora-studio data`."""
    data.add_argument(
        "--doctor", action="store_true", help=f"look for odd rows also in more than {MOST_UNASKED:,} of them"
    )
    data.add_argument("--test", type=Path, metavar="FILE", help="also look for rows of this file")
    data.add_argument(
        "--test-encoding",
        type=encoding_named,
        choices=ENCODINGS,
        default="auto",
        metavar="E",
        help="of the file that --test names, where it is neither UTF-8 nor stored as the data is",
    )
    data.add_argument(
        "--fix",
        action="append",
        default=[],
        choices=_KINDS,
        metavar="KIND",
        help=f"mend the rows, in the order given: {', '.join(_KINDS)}; test_rows are those of --test FILE",
    )
    data.add_argument(
        "--threshold",
        type=_share,
        default=USUALLY_ALIKE,
        metavar="T",
        help="rows are nearly equal where this share of words is the same, in the same order (default: 0.9)",
    )
    data.add_argument("--save-copy", type=Path, metavar="OUT.jsonl", help="write the rows to a new file")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"it must be over 0 and at most 1, not {text}")
    return share


def recipe_of(arguments: argparse.Namespace) -> tuple[Fix, ...]:
    """The fixes that were asked for. Raises: StudioError where one lacks its file."""
    return tuple(_fix(kind, arguments) for kind in arguments.fix)


def _fix(kind: FixKind, arguments: argparse.Namespace) -> Fix:
    if kind == "test_rows":
        if arguments.test is None:
            raise StudioError(
                "--fix test_rows leaves out the rows of a file.", hint="Name the file with --test FILE."
            )
        test, encoding = str(arguments.test.absolute()), arguments.test_encoding
        return Fix(kind=kind, path=test, encoding=encoding, threshold=arguments.threshold)
    if kind == "near_duplicates":
        return Fix(kind=kind, threshold=arguments.threshold)
    return Fix(kind=kind)


def findings_of(
    reader: Reader,
    imported: reading.DataImported,
    data: DataConfig,
    model: str | None,
    arguments: argparse.Namespace,
) -> tuple[Finding, ...] | None:
    """None where there are more rows than the doctor looks at unasked."""
    asked = arguments.doctor or arguments.test is not None
    if imported.report.conversations > MOST_UNASKED and not asked:
        return None
    return reader.ask(
        reading.Diagnosed,
        reading.Diagnose,
        dataset=imported.dataset,
        data=data,
        model=model or "",
        test=str(arguments.test.absolute()) if arguments.test else "",
        test_encoding=arguments.test_encoding,
        threshold=arguments.threshold,
    ).findings


def save_copy(reader: Reader, imported: reading.DataImported, path: Path) -> reading.CopySaved:
    """Raises: StudioError where the file is there already, or can't be written."""
    return reader.ask(
        reading.CopySaved, reading.SaveCopy, dataset=imported.dataset, path=str(path.absolute())
    )


def tell_fixes(report: ImportReport) -> None:
    """What the recipe did."""
    for count in report.fixes:
        done = f"mended {count.mended:,}" if count.mended else f"left out {count.left_out:,}"
        print_text(f"fix {count.fix.kind}: {done}")
    if report.fixes:
        print_text(f"{report.conversations:,} conversations are left")


def tell_findings(findings: tuple[Finding, ...] | None, report: ImportReport) -> None:
    """With the first rows of each, and what would mend it."""
    if findings is None:
        print_text(
            f"the doctor looks at more than {MOST_UNASKED:,} rows with --doctor only: it takes minutes"
        )
    for finding in report.findings if findings is None else findings:
        rows = ", ".join(f"{row:,}" for row in finding.rows[:5])
        more = ", ..." if len(finding.rows) > 5 else ""
        print_text(f"{finding.tone}: {finding.words}" + (f" (rows {rows}{more})" if rows else ""))
        if finding.fix is not None and finding.fix.kind in _KINDS:
            print_text(f"    {finding.fix_words}: --fix {finding.fix.kind}")
