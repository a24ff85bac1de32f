"""What an import counts besides rows: why records were skipped, and what is odd about the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qlora_studio.data.limits import LISTED_LINES, LISTED_REASONS, MANY_SKIPPED
from qlora_studio.data.record import LeftOutError, RecordError
from qlora_studio.data.report import Finding, SkipReason

_LISTED_IN_ALL = 20_000  # line numbers of all reasons: a report is one message of at most 1 MB
_OTHER_REASONS = "other reasons"


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
    "folded": Kind(
        "info",
        "message is a turn of a chat",
        "messages are turns of chats",
        "A tree's messages are records of the file; those of one path make one row.",
    ),
    "same_speaker": Kind(
        "warn",
        "chat has two turns of one speaker in a row",
        "chats have two turns of one speaker in a row",
        "They are kept as they stand; some chat templates refuse them.",
    ),
    "answer_first": Kind(
        "warn",
        "chat begins with the assistant",
        "chats begin with the assistant",
        "What comes before the first question is context only; some chat templates refuse it.",
    ),
    "odd_order": Kind(
        "warn",
        "chat has a turn where none is expected",
        "chats have a turn where none is expected",
        "A system text in the middle, or a tool's result that nobody asked for. It is kept as it stands; "
        "some chat templates refuse it.",
    ),
    "systems_joined": Kind(
        "info",
        "chat begins with several system texts",
        "chats begin with several system texts",
        "They were joined, with a blank line between them.",
    ),
    "unnamed_turns": Kind(
        "info",
        "row doesn't say who speaks",
        "rows don't say who speaks",
        "Its texts were taken for a user's and an assistant's in turn.",
    ),
    "several_answers": Kind(
        "info",
        "row has several answers",
        "rows have several answers",
        "The first one is learned; each of them where all are asked for.",
    ),
    "ranked_answers": Kind(
        "info",
        "row has several answers with a rank or score",
        "rows have several answers with a rank or score",
        "The best one is learned; each of them where all are asked for.",
    ),
    "part_left_out": Kind(
        "warn",
        "record has parts that can't be learned",
        "records have parts that can't be learned",
        "Those have no answer, or aren't text. The rest of the record is learned.",
    ),
    "end_mark": Kind(
        "info",
        "answer ended in an end-of-text mark",
        "answers ended in an end-of-text mark",
        "The mark was left out: the chat template writes its own.",
    ),
    "choice_letter": Kind(
        "info",
        "answer was the number of a choice",
        "answers were the number of a choice",
        "The letter of that choice was taken.",
    ),
    "preface": Kind(
        "info",
        "talk has a text before its first turn",
        "talks have a text before their first turn",
        "It was taken for the system text.",
    ),
    "prompt_unused": Kind(
        "warn",
        "row has another prompt than its chats",
        "rows have another prompt than their chats",
        "The chats begin with a question of their own; that one was taken.",
    ),
    "equal_pair": Kind(
        "warn",
        "pair has two equal answers",
        "pairs have two equal answers",
        "There is nothing to prefer in it; the answer itself can be learned.",
    ),
    "empty_rejected": Kind(
        "warn",
        "pair has an empty worse answer",
        "pairs have an empty worse answer",
        "Any answer is better than none; the better one can be learned.",
    ),
    "rated_bad": Kind(
        "info",
        "answer is rated bad",
        "answers are rated bad",
        "Plain finetuning (method sft) learns the good ones only.",
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
        self.imported = 0  # records that gave at least one row
        self.duplicates = 0  # records whose rows were all there before
        self.folded = 0  # records that are earlier turns of a row
        self.left_out = 0  # of the skipped: what the format itself leaves out
        self.equal_parts = 0  # rows that were there before, of records that gave others
        self.equal_rows: list[int] = []  # rows that merged records were equal to, the first thousand
        self._skipped: Counter[str] = Counter()
        self._by_design: set[str] = set()
        self._listed = 0
        self._lines: defaultdict[str, list[int]] = defaultdict(list)
        self._notes: Counter[str] = Counter()
        self._rows: defaultdict[str, list[int]] = defaultdict(list)

    @property
    def skipped(self) -> int:
        """Over all reasons."""
        return self._skipped.total()

    @property
    def merged(self) -> int:
        """Records whose content stands in a row, though they gave none."""
        return self.duplicates + self.folded

    @property
    def rows_in(self) -> int:
        """Records of the file so far."""
        return self.imported + self.skipped + self.merged

    def skip(self, error: RecordError, line: int) -> None:
        """The record at `line` doesn't become a row."""
        reason = str(error)
        if isinstance(error, LeftOutError):
            self.left_out += 1
            self._by_design.add(reason)
        elif reason not in self._skipped and len(self._skipped) >= LISTED_REASONS:
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
            SkipReason(
                min(self._lines[reason]), reason, count, tuple(self._lines[reason]), reason in self._by_design
            )
            for reason, count in self._skipped.most_common()
        )

    def findings(self) -> tuple[Finding, ...]:
        """In the order of `KINDS`, without those of the file as a whole."""
        counts = dict(self._notes)
        rows = dict(self._rows)
        if equal := self.duplicates + self.equal_parts:
            counts["duplicates"], rows["duplicates"] = equal, self.equal_rows
        counts["folded"] = self.folded
        return tuple(
            Finding(
                kind=kind,
                tone=words.tone,
                count=counts[kind],
                words=f"{counts[kind]:,} {words.one if counts[kind] == 1 else words.many}",
                why=words.why,
                rows=tuple(rows.get(kind, ())),
            )
            for kind, words in KINDS.items()
            if counts.get(kind)
        )


def file_findings(
    tally: Tally,
    *,
    encoding: str,
    encodings: Sequence[str],
    mismatches: Sequence[str],
    headless: int,
    guesses: Sequence[str],
    held_out: Sequence[str],
    ignored: Sequence[str],
) -> tuple[Finding, ...]:
    """What is to be said of the files as a whole.

    encoding: "auto", or the one that was chosen
    """
    found = []
    if tally.skipped:
        faulty = tally.skipped - tally.left_out
        tone = "bad" if faulty > MANY_SKIPPED * tally.rows_in else "warn" if faulty else "info"
        share = 100 * tally.skipped / tally.rows_in
        words = f"{tally.skipped:,} of {tally.rows_in:,} rows skipped ({share:.1f} %)"
        why = "What is skipped is not learned."
        found.append(Finding(kind="skipped", tone=tone, count=tally.skipped, words=words, why=why))
    if headless:
        words = "The first row is taken for a row: it doesn't look like names of columns"
        why = (
            "The columns are called column 1, column 2 and so on; choose what they mean where it isn't right."
        )
        found.append(Finding(kind="header", tone="warn", count=headless, words=words, why=why))
    for words in sorted(set(guesses)):
        why = "Look whether these are the columns that you mean."
        found.append(Finding(kind="guess", tone="warn", count=guesses.count(words), words=words, why=why))
    for words in sorted(set(mismatches) - {""}):
        why = "It was read as what it is."
        found.append(Finding(kind="name", tone="info", count=mismatches.count(words), words=words, why=why))
    turned = [encoding for encoding in encodings if not encoding.startswith(("utf-8", "binary"))]
    if turned:
        chosen = f"Read as {turned[0].upper()}, as you chose"
        marked = f"Read as {turned[0].upper()}, as the mark at its beginning says"
        words = chosen if encoding != "auto" else marked
        why = "Look whether letters such as é read well."
        found.append(Finding(kind="encoding", tone="info", count=len(turned), words=words, why=why))
    if held_out:
        words = f"Left out by their names: {_listed(held_out)}"
        why = "Rows for testing must not be learned."
        found.append(Finding(kind="held_out", tone="info", count=len(held_out), words=words, why=why))
    return (*found, *ignored_files(ignored))


def ignored_files(ignored: Sequence[str]) -> tuple[Finding, ...]:
    """What is said of a folder's other files; the same rows may lie beside others another time."""
    if not ignored:
        return ()
    words = f"Not read, as they hold no rows: {_listed(ignored)}"
    why = "Only files whose names end as those of data do are read; cards and settings are left alone."
    return (Finding(kind="ignored", tone="info", count=len(ignored), words=words, why=why),)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"
