"""Rows that a fix would leave out or mend, found the same way by the doctor that offers it and the recipe."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from qlora_studio.config.data_parts import USUALLY_ALIKE, Fix
from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data import text_signs
from qlora_studio.data.batch_digests import digests_of
from qlora_studio.data.dataset import open_dataset
from qlora_studio.data.limits import LISTED_LINES
from qlora_studio.data.near_rows import NearRows, cached_near_rows, find_near_rows, near_words
from qlora_studio.data.other_file import import_test
from qlora_studio.data.row_words import RowWords, read_words
from qlora_studio.data.scripts import scripts_of
from qlora_studio.data.text_signs import Sign

MARKS_VERSION = 2  # raised when the same fix would mark other rows

Told = Callable[[int, int, str], None]

_NONE = np.zeros(0, dtype=np.int64)
_TELL_EVERY = 1000  # groups


@dataclass(frozen=True)
class Marked:
    """What is found of one kind.

    rows:     that show it, in their order
    left_out: those of them that the fix leaves out
    groups:   rows that belong together, the one that stays first
    exact:    how many of the rows are equal word for word to what they are compared with
    """

    rows: NDArray[np.int64]
    left_out: NDArray[np.int64]
    groups: tuple[tuple[int, ...], ...] = ()
    exact: int = 0

    def first_groups(self) -> tuple[tuple[int, ...], ...]:
        """As many as a finding lists."""
        listed: list[tuple[int, ...]] = []
        room = LISTED_LINES
        for group in self.groups:
            if room < 2:
                break
            listed.append(group[:room])
            room -= len(group)
        return tuple(listed)


class Rows(Protocol):
    """Rows to look at, as record batches. folder: where findings are kept, if anywhere."""

    @property
    def folder(self) -> Path | None: ...

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Any]: ...


def marked_rows(dataset: Rows, fix: Fix, data: DataConfig, told: Told) -> Marked:
    """By everything but the fix of kind "rows", whose numbers are those of the import.

    data: how the rows were read: the file of a fix is read like them

    Raises: StudioError where the file of a fix can't be read.
    """
    match fix.kind:
        case "equal_rows":
            return equal_rows(dataset.batches())
        case "near_duplicates":
            return _copies(near_rows(dataset, fix.threshold, told))
        case "test_rows":
            return rows_of_file(dataset, fix, data, told)
        case "contradictions":
            return _contradictions(dataset, told)
        case "empty_answers":
            return _all(_empty_answers(dataset, told))
        case "refusals":
            return _all(rows_with(dataset, text_signs.REFUSAL, told, answers=True))
        case "cut_sentences":
            return _all(rows_with(dataset, text_signs.CUT, told, answers=True, last=True))
        case "broken_encoding":
            return Marked(rows_with(dataset, text_signs.ENCODING, told), _NONE)
        case "rows":
            return _all(_NONE)


def equal_rows(batches: Iterable[Any]) -> Marked:
    """Rows that say exactly what an earlier one does, roles, tools and ratings included."""
    digests = np.frombuffer(b"".join([b"".join(digests_of(batch)) for batch in batches]), np.uint64)
    first, second = digests[::2], digests[1::2]
    order = np.lexsort((second, first))  # stable: equal ones stay in the order of the rows
    later, earlier = order[1:], order[:-1]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (first[later] != first[earlier]) | (second[later] != second[earlier])
    heads = np.flatnonzero(new)
    ends = np.append(heads[1:], len(order))
    several = np.flatnonzero(ends - heads > 1).tolist()
    groups = sorted(tuple(order[heads[at] : ends[at]].tolist()) for at in several)
    copies = np.sort(order[~new])
    return Marked(copies, copies, tuple(groups))


def near_rows(dataset: Rows, threshold: float, told: Told) -> NearRows:
    """Which rows are nearly equal; kept beside the data set."""

    def words() -> RowWords:
        return read_words([dataset], cache_folder(), told)

    if dataset.folder is None:
        return find_near_rows(words(), threshold, told)
    return cached_near_rows(dataset.folder, threshold, words, told)


def rows_of_file(dataset: Rows, fix: Fix, data: DataConfig, told: Told) -> Marked:
    """Rows that stand in another file too, with all they say, nearly so, or with the same question."""
    other = open_dataset(import_test(fix.path, fix.encoding, data, told).dataset)
    words = read_words([other, dataset], cache_folder(), told)
    known = len(other)
    near = find_near_rows(words, fix.threshold, told, known).copy_of[known:] >= 0
    asked = _questions(words)
    equal = np.isin(asked[known:], asked[:known])
    return _all(np.flatnonzero(near | equal), exact=int(equal.sum()))


def rows_with(
    dataset: Rows, sign: Sign, told: Told, *, answers: bool = False, last: bool = False
) -> NDArray[np.int64]:
    """Rows with a text that shows a sign. answers: only those of the assistant; last: only the last turn."""
    found: list[NDArray[np.int64]] = []
    for first, batch in _each(dataset, told, "Reading texts"):
        rows = [
            parents[at]
            for texts, parents in _texts(batch, answers=answers, last=last)
            for at in _fitting(texts, sign)
        ]
        found.append(np.unique(np.array(rows, dtype=np.int64)) + first)
    return np.concatenate([_NONE, *found])


def row_scripts(dataset: Rows, told: Told) -> NDArray[np.int8]:
    """Of each row an index into `scripts.NAMES`: what its answers, or its text, are written in."""
    found: list[NDArray[np.int8]] = [np.zeros(0, np.int8)]
    for _, batch in _each(dataset, told, "Looking at scripts"):
        answers, rows = next(_texts(batch, answers=True, last=False))
        raw = batch.column("text")
        at = np.flatnonzero(raw.is_valid().to_numpy(zero_copy_only=False))
        if len(at):
            answers, rows = pa.concat_arrays([answers, raw.drop_null()]), np.concatenate([rows, at])
        found.append(scripts_of(answers, rows, batch.num_rows))
    return np.concatenate(found)


def _fitting(texts: Any, sign: Sign) -> Iterator[int]:
    hits = pc.match_substring_regex(texts, pattern=sign.pattern)
    for at in pc.indices_nonzero(hits).to_pylist():
        if sign.judge(texts[at].as_py()):
            yield at


def _texts(batch: Any, *, answers: bool, last: bool) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Columns of texts, each with the number of every text's row in the batch."""
    for column in (batch.column("messages"), batch.column("rejected"))[: 1 if answers else 2]:
        flat = column.flatten()
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
        contents, kept = flat.field("content"), np.ones(len(parents), dtype=bool)
        if answers:
            kept &= pc.equal(flat.field("role"), "assistant").to_numpy(zero_copy_only=False)
        if last:
            kept[:-1] &= parents[1:] != parents[:-1]
        at = np.flatnonzero(kept)
        yield (contents if kept.all() else contents.take(at)), parents[at]
    if not answers:
        texts = batch.column("text")
        yield texts.drop_null(), np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))


def _empty_answers(dataset: Rows, told: Told) -> NDArray[np.int64]:
    found = [_NONE]
    for first, batch in _each(dataset, told, "Looking for empty answers"):
        messages = batch.column("messages")
        flat = messages.flatten()
        silent = pc.equal(pc.utf8_trim_whitespace(flat.field("content")), "")
        calls = pc.fill_null(pc.match_substring(flat.field("more"), '"tool_calls"'), False)
        empty = pc.and_(pc.and_not(silent, calls), pc.equal(flat.field("role"), "assistant"))
        parents = pc.list_parent_indices(messages).filter(empty).to_numpy(zero_copy_only=False)
        found.append(np.unique(parents).astype(np.int64) + first)
    return np.concatenate(found)


def _contradictions(dataset: Rows, told: Told) -> Marked:
    """Questions of one turn that are answered differently, and answers that are rated both ways."""
    rows, asked, said = array("q"), array("Q"), array("Q")
    for first, batch in _each(dataset, told, "Comparing answers to equal questions"):
        for row, question, answer in _questions_and_answers(batch):
            rows.append(first + row)
            asked.append(xxhash.xxh3_64_intdigest(question))
            said.append(xxhash.xxh3_64_intdigest(answer))
    several = list(_answered_differently(np.array(rows), np.array(asked), np.array(said)))
    groups = sorted(_different(dataset, several, told))
    later = np.array(sorted(row for group in groups for row in group[1:]), dtype=np.int64)
    every = np.array(sorted(row for group in groups for row in group), dtype=np.int64)
    return Marked(every, later, tuple(groups))


def _answered_differently(
    rows: NDArray[np.int64], asked: NDArray[np.uint64], said: NDArray[np.uint64]
) -> Iterator[NDArray[np.int64]]:
    """Rows with the same question of which not all say the same, each group in the order of the rows."""
    if not len(rows):
        return
    order = np.argsort(asked, kind="stable")
    asked, said = asked[order], said[order]
    starts = np.append(0, np.flatnonzero(asked[1:] != asked[:-1]) + 1)
    ends = np.append(starts[1:], len(order))
    differ = np.minimum.reduceat(said, starts) != np.maximum.reduceat(said, starts)
    for start, end in zip(starts[differ].tolist(), ends[differ].tolist(), strict=True):
        yield rows[order[start:end]]


def _different(dataset: Rows, groups: list[NDArray[np.int64]], told: Told) -> Iterator[tuple[int, ...]]:
    """Without what is a near copy of the first answer: that is no contradiction."""
    if not groups:
        return
    wanted = np.sort(np.concatenate(groups))
    answers = _answers_of(dataset, wanted, told)
    for done, group in enumerate(groups):
        if done % _TELL_EVERY == 0:
            told(done, len(groups), "Comparing answers to equal questions")
        first, *others = np.searchsorted(wanted, group).tolist()
        words = answers.of(first)
        kept = [at for at in others if not near_words(words, answers.of(at), USUALLY_ALIKE)]
        if kept:
            yield (int(wanted[first]), *wanted[kept].tolist())


def _answers_of(dataset: Rows, wanted: NDArray[np.int64], told: Told) -> RowWords:
    """The words of the answers of these rows. They lie in a file that is gone with the result."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    counts: list[int] = []
    with tempfile.TemporaryFile(dir=cache_folder(), prefix=".words-") as file:
        for first, batch in _each(dataset, told, "Reading answers to equal questions"):
            start, end = np.searchsorted(wanted, (first, first + batch.num_rows)).tolist()
            if start == end:
                continue
            here = set((wanted[start:end] - first).tolist())
            for row, _, answer in _questions_and_answers(batch):
                if row in here:
                    words = [xxhash.xxh3_64_intdigest(word) for word in answer.split()]
                    file.write(np.array(words, dtype=np.uint64).astype(np.uint32).tobytes())
                    counts.append(len(words))
        file.flush()
        flat = np.memmap(file, dtype=np.uint32, mode="r")  # no answer is empty
    return RowWords(flat, np.concatenate([[0], np.cumsum(counts)]))


def _questions_and_answers(batch: Any) -> Iterator[tuple[int, bytes, bytes]]:
    """Of chats with one question and one answer: row, all that stands before the answer, and the answer."""
    messages = batch.column("messages")
    flat = messages.flatten()
    roles, contents = flat.field("role").to_pylist(), flat.field("content").to_pylist()
    tools, ratings = batch.column("tools").to_pylist(), batch.column("label").to_pylist()
    paired = batch.column("shared").is_valid().to_pylist()
    at = 0
    for row, length in enumerate(messages.value_lengths().to_pylist()):
        first, at = at, at + (length or 0)
        turns = [role for role in roles[first:at] if role != "system"]
        if turns != ["user", "assistant"] or roles[at - 1] != "assistant" or paired[row] or tools[row]:
            continue
        question = "\n".join(" ".join(text.split()) for text in contents[first : at - 1]).lower()
        answer = " ".join(contents[at - 1].split()).lower().rstrip(".")
        if not answer:
            continue
        if ratings[row] is not None:  # of rated answers several to one question are meant
            question, answer = f"{question}\n{answer}", str(ratings[row])
        yield row, question.encode("utf-8"), answer.encode("utf-8")


def _questions(words: RowWords) -> NDArray[np.uint64]:
    """A hash of each row's words before its first answer; of a text, and where nothing is asked, of all."""
    found = np.zeros(len(words), dtype=np.uint64)
    for row in range(len(words)):
        of_row = words.of(row)
        answers = np.flatnonzero(of_row & 1)
        asked = of_row[: answers[0]] if len(answers) and answers[0] else of_row
        found[row] = xxhash.xxh3_64_intdigest(asked.tobytes())
    return found


def _copies(near: NearRows) -> Marked:
    return Marked(near.copies, near.copies, tuple(near.members()))


def _all(rows: NDArray[np.int64], exact: int = 0) -> Marked:
    return Marked(rows, rows, exact=exact)


def _each(dataset: Rows, told: Told, words: str) -> Iterator[tuple[int, Any]]:
    first = 0
    for batch in dataset.batches():
        told(first, len(dataset), words)
        yield first, batch
        first += batch.num_rows
