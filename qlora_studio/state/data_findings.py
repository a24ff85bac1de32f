"""What is odd about the rows, in order and in words, and the list of the lines that were skipped."""

from __future__ import annotations

from collections.abc import Iterable

from qlora_studio.data.report import Finding, ImportReport

NOTHING = "nothing"  # the kind of rows without a token to learn
TONES = ("bad", "warn", "info", "ok")  # the gravest first


def gravest_first(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Each by its kind.

    Where several data sets of a mixture have one of a kind, those after the first are `kind_2`, ...
    """
    keyed: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda finding: TONES.index(finding.tone)):
        same = sum(other.kind == finding.kind for other in keyed.values())
        keyed[f"{finding.kind}_{same + 1}" if same else finding.kind] = finding
    return keyed


def nothing_to_learn(rows: int, format: str, refused: str) -> list[Finding]:
    """rows: that the token counts found; none: no finding. format: of all rows. refused: as in `Lengths`."""
    if not rows:
        return []
    have = "row has" if rows == 1 else "rows have"
    rated = format in ("kto", "hh_rlhf") and not refused
    why = f"{refused or 'Their answers are empty.'} They are not trained on."
    return [
        Finding(
            kind=NOTHING,
            tone="info" if rated else "bad",
            count=rows,
            words=f"{rows:,} {have} no token to learn",
            why=f"Answers rated bad are among them. {why}" if rated else why,
        )
    ]


def listed_words(finding: Finding) -> str:
    """What the list of its rows shows, and that it isn't all where it isn't."""
    if finding.groups:
        grouped = sum(len(group) for group in finding.groups)
        return f"{finding.words}. The first {grouped:,} rows of its groups, those of a group together"
    listed = len(finding.rows)
    return f"the first {listed:,} of {finding.words}" if 0 < listed < finding.count else finding.words


def skipped_text(report: ImportReport) -> str:
    """Every skipped line that is known, with its reason: to copy or to keep."""
    if report.parts:  # each reason names its file
        lines = [f"line {line} of {problem.reason}" for problem in report.problems for line in problem.lines]
    else:
        listed = sorted((line, problem.reason) for problem in report.problems for line in problem.lines)
        lines = [f"line {line}: {reason}" for line, reason in listed]
    rest = report.skipped - len(lines)
    return "\n".join(lines + ([f"and {rest:,} more"] if rest else [])) + "\n"
