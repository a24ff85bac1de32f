"""What an import counts besides rows: why records were skipped, and what is odd about the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qlora_studio.data.limits import LISTED_LINES, LISTED_REASONS
from qlora_studio.data.report import Finding, SkipReason

_LISTED_IN_ALL = 20_000  # line numbers of all reasons: a report is one message of at most 1 MB
_OTHER_REASONS = "other reasons"

MANY_SKIPPED = 0.01  # more than this share of skipped records is asked about (D3)


@dataclass(frozen=True)
class Kind:
    """Words for one kind of finding; `one` and `many` follow the count."""

    tone: str
    one: str
    many: str
    why: str


KINDS = {
    "duplicates": Kind(
        "info", "equal row was merged", "equal rows were merged", "Rows seen twice are learned twice as hard."
    ),
    "empty_answer": Kind(
        "warn",
        "row has an empty answer",
        "rows have an empty answer",
        "Another answer of the same chat is learned; the empty one teaches silence.",
    ),
    "empty_prompt": Kind(
        "warn", "row has an empty prompt", "rows have an empty prompt", "The answer follows no question."
    ),
    "empty_system": Kind(
        "info",
        "empty system text was left out",
        "empty system texts were left out",
        "It says nothing, and some templates render it all the same.",
    ),
    "open_end": Kind(
        "info",
        "chat ends without an answer",
        "chats end without an answer",
        "The last turn is context only; nothing is learned from it.",
    ),
    "role_alias": Kind(
        "info",
        "row names its roles differently",
        "rows name their roles differently",
        "Names such as human and gpt were read as user and assistant.",
    ),
    "number": Kind(
        "warn",
        "row has a number or truth value for text",
        "rows have a number or truth value for text",
        "It was taken as it is spelled in the file.",
    ),
}


class Tally:
    """Counts while rows come; rows_in = imported + skipped + merged."""

    def __init__(self) -> None:
        self.imported = 0
        self.merged = 0
        self.equal_rows: list[int] = []  # rows that merged records were equal to, the first thousand
        self._skipped: Counter[str] = Counter()
        self._listed = 0
        self._lines: defaultdict[str, list[int]] = defaultdict(list)
        self._notes: Counter[str] = Counter()
        self._rows: defaultdict[str, list[int]] = defaultdict(list)

    @property
    def skipped(self) -> int:
        """Over all reasons."""
        return self._skipped.total()

    @property
    def rows_in(self) -> int:
        """Records of the file so far."""
        return self.imported + self.skipped + self.merged

    def skip(self, reason: str, line: int) -> None:
        """The record at `line` doesn't become a row."""
        if reason not in self._skipped and len(self._skipped) >= LISTED_REASONS:
            reason = _OTHER_REASONS
        self._skipped[reason] += 1
        if self._skipped[reason] <= LISTED_LINES and (
            self._listed < _LISTED_IN_ALL or not self._lines[reason]
        ):
            self._lines[reason].append(line)
            self._listed += 1

    def note_rows(self, kind: str, rows: Sequence[int]) -> None:
        """These rows show a finding of this kind."""
        self._notes[kind] += len(rows)
        room = LISTED_LINES - len(self._rows[kind])
        self._rows[kind].extend(int(row) for row in rows[: max(0, room)])

    def problems(self) -> tuple[SkipReason, ...]:
        """Most frequent first; their counts add up to `skipped`."""
        return tuple(
            SkipReason(min(self._lines[reason]), reason, count, tuple(self._lines[reason]))
            for reason, count in self._skipped.most_common()
        )

    def findings(self) -> tuple[Finding, ...]:
        """In the order of `KINDS`, without those of the file as a whole."""
        counts = dict(self._notes)
        rows = dict(self._rows)
        if self.merged:
            counts["duplicates"], rows["duplicates"] = self.merged, self.equal_rows
        return tuple(
            Finding(
                kind=kind,
                tone=words.tone,
                count=counts[kind],
                words=f"{counts[kind]:,} {words.one if counts[kind] == 1 else words.many}",
                why=words.why,
                rows=tuple(rows[kind]),
            )
            for kind, words in KINDS.items()
            if counts.get(kind)
        )


def file_findings(
    tally: Tally,
    *,
    encodings: Sequence[str],
    mismatches: Sequence[str],
    guesses: Sequence[str],
    held_out: Sequence[str],
) -> tuple[Finding, ...]:
    """What is to be said of the files as a whole."""
    found = []
    if tally.skipped:
        many = tally.skipped > MANY_SKIPPED * tally.rows_in
        share = 100 * tally.skipped / tally.rows_in
        words = f"{tally.skipped:,} of {tally.rows_in:,} rows were skipped ({share:.1f} %)"
        why = "What is skipped is not learned."
        found.append(
            Finding(kind="skipped", tone="bad" if many else "warn", count=tally.skipped, words=words, why=why)
        )
    for words in sorted(set(guesses)):
        why = "No column has a usual name: look whether prompt and answer are right."
        found.append(Finding(kind="guess", tone="warn", count=guesses.count(words), words=words, why=why))
    for words in sorted(set(mismatches) - {""}):
        why = "It was read as what it is."
        found.append(Finding(kind="name", tone="info", count=mismatches.count(words), words=words, why=why))
    utf_16 = [encoding for encoding in encodings if encoding.startswith("utf-16")]
    if utf_16:
        words = f"Read as {utf_16[0].upper()}, as the mark at its beginning says"
        why = "Files in UTF-16 are rare; look whether the rows read well."
        found.append(Finding(kind="encoding", tone="warn", count=len(utf_16), words=words, why=why))
    if held_out:
        words = f"Left out by their names: {', '.join(held_out[:5])}" + (
            " and more" if len(held_out) > 5 else ""
        )
        why = "Rows for testing must not be learned."
        found.append(Finding(kind="held_out", tone="info", count=len(held_out), words=words, why=why))
    return tuple(found)
