"""The doctor: what is wrong, or odd, with imported rows, and which fix would mend it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.data_check import check_recipe
from qlora_studio.config.data_parts import USUALLY_ALIKE, Fix
from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data import text_signs
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.languages import languages_of
from qlora_studio.data.lengths import count_lengths, read_lengths
from qlora_studio.data.limits import LISTED_LINES
from qlora_studio.data.marked_rows import MARKS_VERSION, Marked, marked_rows, row_scripts, rows_with
from qlora_studio.data.near_rows import NEAR_VERSION
from qlora_studio.data.other_file import OF_HELD_OUT, OF_TEST, import_test
from qlora_studio.data.report import Finding
from qlora_studio.data.row_encoder import RowEncoder
from qlora_studio.data.scripts import NAMES
from qlora_studio.data.too_long import too_long

DOCTOR_VERSION = 3  # raised when the same rows would give other findings

_FEW_ROWS = 0.1  # of those in the usual script; more are meant
_FAIR_RATIO = (3 / 4, 4 / 3)  # of good to bad answers, beyond which one side should count more

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Asked:
    """What the doctor looks at beside the rows.

    data:          how the rows were read, and what is held out of them
    test:          a file that must not be learned, beside `data.validation` where that is one; "": none
    test_encoding: of that file; auto: as its content says, or else that of the rows' own file
    threshold:     of words that nearly equal rows have in common
    encoder:       for findings in tokens; None: there are none
    """

    data: DataConfig
    test: str = ""
    test_encoding: Encoding = "auto"
    threshold: float = USUALLY_ALIKE
    encoder: RowEncoder | None = None


def diagnose(dataset: Dataset, asked: Asked, told: Told) -> tuple[Finding, ...]:
    """What the import found, and what the doctor does; from the cache where the same was asked before.

    Raises: StudioError where the test file can't be read, or the threshold is none.
    """
    check_recipe([Fix(kind="near_duplicates", threshold=asked.threshold)], "The doctor")
    others = {
        path: import_test(path, encoding, asked.data, told, _setting(path, asked)).dataset.name
        for path, encoding in _other_files(asked).items()
    }
    file = dataset.folder / f"doctor-{_key(asked, others)}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=tuple[Finding, ...])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        findings = tuple(_findings(dataset, asked, told))
    staging = file.with_name(f".staging-{os.getpid()}-{file.name}")
    with contextlib.suppress(OSError):  # where there is no room to keep them, they are found anew
        staging.write_bytes(msgspec.json.encode(findings))
        staging.replace(file)
    return findings


def _findings(dataset: Dataset, asked: Asked, told: Told) -> Iterator[Finding]:
    """Bad ones first, then those to decide on, then what is good to know."""
    own = [*_of_other_files(dataset, asked, told), *_of_rows(dataset, asked, told)]
    own += [*_of_texts(dataset, asked, told)]
    own += [*_of_tokens(dataset, asked, told), *_of_ratings(dataset), *_of_languages(dataset, told)]
    replaced = {finding.kind for finding in own} | {"empty_answer"}
    found = own + [finding for finding in dataset.report.findings if finding.kind not in replaced]
    yield from sorted(found, key=lambda finding: ("bad", "warn", "info", "ok").index(finding.tone))


def _of_other_files(dataset: Dataset, asked: Asked, told: Told) -> Iterator[Finding]:
    for path, encoding in _other_files(asked).items():
        fix = Fix(kind="test_rows", path=path, encoding=encoding, threshold=asked.threshold)
        found = marked_rows(dataset, fix, asked.data, told)
        name = Path(path).name
        words = f"{_count(len(found.rows), 'row stands', 'rows stand')} in {name} too"
        if 0 < found.exact < len(found.rows):
            words += f" ({found.exact:,} with the same question, {len(found.rows) - found.exact:,} nearly)"
        kind = "validation_rows" if path == asked.data.validation else "test_rows"
        why = "What was learned can't be tested: the result would flatter."
        yield from _finding(kind, "bad", found, words, why, fix, "Leave them out of training")


def _of_rows(dataset: Dataset, asked: Asked, told: Told) -> Iterator[Finding]:
    near = Fix(kind="near_duplicates", threshold=asked.threshold)
    found = marked_rows(dataset, near, asked.data, told)
    copies = len(found.rows)
    share = f"{100 * asked.threshold:.0f} %"
    yield from _finding(
        "near_duplicates",
        "warn",
        found,
        f"{_count(copies, 'row is', 'rows are')} nearly equal to an earlier one",
        f"At least {share} of the words are the same, in the same order; system texts and forms that many "
        "rows share don't count. What is seen several times is learned as many times harder.",
        near,
        f"Leave out {_count(copies, 'copy', 'copies')}",
    )
    fix = Fix(kind="contradictions")
    found = marked_rows(dataset, fix, asked.data, told)
    yield from _finding(
        "contradictions",
        "warn",
        found,
        f"{_count(len(found.groups), 'question is', 'questions are')} answered in different ways",
        "The model learns to waver between them. Where several answers are meant, as in stories, keep them.",
        fix,
        f"Keep the first answer of each, leave out {len(found.left_out):,}",
        count=len(found.groups),
    )


def _of_texts(dataset: Dataset, asked: Asked, told: Told) -> Iterator[Finding]:
    for fix, kind, tone, one, many, why in (
        (
            Fix(kind="empty_answers"),
            "empty_answer",
            "warn",
            "row has an empty answer",
            "rows have an empty answer",
            "Nothing is learned from the empty answer; what follows it reads as if it had been given.",
        ),
        (
            Fix(kind="refusals"),
            "refusals",
            "warn",
            "row has an answer that refuses, or speaks of itself as a program",
            "rows have an answer that refuses, or speaks of itself as a program",
            "A few hundred of them teach a model to refuse.",
        ),
        (
            Fix(kind="cut_sentences"),
            "cut_sentences",
            "warn",
            "answer ends in the middle of a sentence",
            "answers end in the middle of a sentence",
            "The model learns to stop there too.",
        ),
        (
            Fix(kind="broken_encoding"),
            "broken_encoding",
            "warn",
            "row was read in a wrong encoding before it came here",
            "rows were read in a wrong encoding before they came here",
            "Such as “â€™” in place of an apostrophe; the model learns to write it.",
        ),
    ):
        found = marked_rows(dataset, fix, asked.data, told)
        count = len(found.rows)
        verb = "Mend" if fix.kind == "broken_encoding" else "Leave out"
        yield from _finding(
            kind, tone, found, _count(count, one, many), why, fix, f"{verb} {_count(count, 'row', 'rows')}"
        )
    yield from _of_template_marks(dataset, told)
    yield from _of_secrets(dataset, told)


def _of_template_marks(dataset: Dataset, told: Told) -> Iterator[Finding]:
    marked = rows_with(dataset, text_signs.TEMPLATE_MARKS, told)
    words = (
        f"{_count(len(marked), 'row holds', 'rows hold')} the marks of a chat template, such as <|im_start|>"
    )
    why = (
        "They are learned as plain text: the model's own template writes its marks itself. "
        "Turn the rows into messages, or questions and answers, without them."
    )
    yield from _finding("template_marks", "warn", Marked(marked, marked), words, why)


def _of_secrets(dataset: Dataset, told: Told) -> Iterator[Finding]:
    keys = rows_with(dataset, text_signs.KEY, told)
    words = f"{_count(len(keys), 'row holds', 'rows hold')} what looks like a secret key"
    why = "A model can repeat what it learned, word for word. Look at the row before you train on it."
    yield from _finding("secrets", "bad", Marked(keys, keys), words, why)
    addresses = rows_with(dataset, text_signs.ADDRESS, told)
    words = f"{_count(len(addresses), 'row holds', 'rows hold')} an e-mail address"
    why = "It may be somebody's own. A model can repeat what it learned, word for word."
    yield from _finding("addresses", "info", Marked(addresses, addresses), words, why)


def _of_tokens(dataset: Dataset, asked: Asked, told: Told) -> Iterator[Finding]:
    if asked.encoder is None:
        return
    lengths = count_lengths(dataset, asked.encoder, told)
    counted = read_lengths(lengths)
    learned = counted[:, 1]
    rated_bad = _ratings(dataset) == 0
    long = np.flatnonzero(too_long(counted, asked.data.seq_len, asked.encoder.target_len))
    limit = asked.encoder.limit_words(asked.data.seq_len)
    fate = {"drop": "left out", "truncate": "cut", "stop": "refused"}[asked.data.too_long]
    words = f"{_count(len(long), 'row is', 'rows are')} longer than {limit} and {fate}"
    why = "The ends of their answers are lost. A higher limit keeps them, and takes more memory."
    if asked.data.too_long != "truncate":
        why = "A higher limit keeps them, and takes more memory."
    yield from _finding("too_long", "warn", Marked(long, long), words, why)
    nothing = np.flatnonzero((learned == 0) & ~rated_bad)
    words = f"{_count(len(nothing), 'row has', 'rows have')} no token to learn"
    why = f"{lengths.refused or 'Their answers are empty.'} They are left out."
    yield from _finding("nothing_to_learn", "warn", Marked(nothing, nothing), words, why)


def _of_ratings(dataset: Dataset) -> Iterator[Finding]:
    ratings = _ratings(dataset)
    good, bad = int((ratings == 1).sum()), int((ratings == 0).sum())
    if not good or not bad or _FAIR_RATIO[0] <= good / bad <= _FAIR_RATIO[1]:
        return
    rarer = "good" if good < bad else "bad"
    words = f"{good:,} answers are rated good, {bad:,} bad"
    times = max(good, bad) / min(good, bad)
    why = (
        f"Learning from ratings (KTO) wants both sides to weigh about the same: there each {rarer} answer "
        f"should count {times:.1f} times. Plain finetuning learns the good ones only."
    )
    yield Finding(kind="ratings", tone="info", count=good + bad, words=words, why=why)


def _of_languages(dataset: Dataset, told: Told) -> Iterator[Finding]:
    """What few rows are written in: it may not be meant. Of all rows the script, of a sample the language."""
    scripts = row_scripts(dataset, told)
    counts = np.bincount(scripts, minlength=len(NAMES))[:-1]
    usual = int(counts.argmax())
    rare = [at for at in np.argsort(-counts).tolist() if 0 < counts[at] < _FEW_ROWS * counts[usual]]
    rows = np.flatnonzero(np.isin(scripts, rare))
    written = ", ".join(f"{counts[at]:,} in {NAMES[at]}" for at in rare)
    words = f"{_count(len(rows), 'row is', 'rows are')} written in another script than most: {written}"
    why = f"Most are written in {NAMES[usual]} script. The model learns to answer in either."
    yield from _finding("scripts", "info", Marked(rows, rows), words, why)
    yield from _languages_within(dataset, np.flatnonzero(scripts == usual), told)


def _languages_within(dataset: Dataset, rows: NDArray[np.int64], told: Told) -> Iterator[Finding]:
    """rows: those in the usual script."""
    told_apart = languages_of(dataset, rows, told)
    if len(told_apart.counts) < 2:
        return
    usual, *rare = told_apart.counts.items()
    others = np.array(told_apart.others, dtype=np.int64)
    written = ", ".join(f"{count:,} in {name}" for name, count in rare)
    words = _count(len(others), "row is", "rows are")
    if told_apart.sampled < len(rows):
        verb = "is" if len(others) == 1 else "are"
        words = f"{len(others):,} of {told_apart.sampled:,} rows looked at {verb}"
    words += f" in another language than most, {usual[0]}: {written}"
    why = "Told from the words of each answer, where there are enough of them; some may be mistaken."
    yield from _finding("languages", "info", Marked(others, others), words, why)


def _ratings(dataset: Dataset) -> NDArray[np.int8]:
    """1: rated good, 0: bad, -1: not rated."""
    found = [np.zeros(0, np.int8)]
    for batch in dataset.batches():
        label = batch.column("label").cast("int8").fill_null(-1)
        found.append(label.to_numpy(zero_copy_only=False))
    return np.concatenate(found)


def _finding(
    kind: str,
    tone: str,
    found: Marked,
    words: str,
    why: str,
    fix: Fix | None = None,
    fix_words: str = "",
    count: int | None = None,
) -> Iterator[Finding]:
    if not len(found.rows):
        return
    yield Finding(
        kind=kind,
        tone=tone,
        count=len(found.rows) if count is None else count,
        words=words,
        why=why,
        rows=tuple(found.rows[:LISTED_LINES].tolist()),
        groups=found.first_groups(),
        fix=fix,
        fix_words=fix_words,
    )


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _other_files(asked: Asked) -> dict[str, Encoding]:
    """Path -> encoding."""
    held_out = asked.data.validation
    found: dict[str, Encoding] = {}
    if isinstance(held_out, str) and held_out:
        found[held_out] = asked.data.validation_encoding
    if asked.test:
        found.setdefault(asked.test, asked.test_encoding)
    return found


def _setting(path: str, asked: Asked) -> str:
    """Where the encoding of one of them is chosen."""
    return OF_HELD_OUT if path == asked.data.validation else OF_TEST


def _key(asked: Asked, others: dict[str, str]) -> str:
    encoder = asked.encoder
    key = {
        "versions": (DOCTOR_VERSION, MARKS_VERSION, NEAR_VERSION, text_signs.SIGNS_VERSION),
        "others": others,
        "validation": asked.data.validation,
        "threshold": asked.threshold,
        "tokens": encoder
        and (encoder.tokenizer.sha256, encoder.template.sha256, encoder.train_on, asked.data.seq_len),
        "too_long": asked.data.too_long,
        "of_encoder": encoder and encoder.settings,
    }
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]
