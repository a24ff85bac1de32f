"""Records in, rows out: each is converted, compared with those before it, written and counted."""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.file_records import FileRecords
from qlora_studio.data.findings import Tally
from qlora_studio.data.formats import Convert, Layout, converter
from qlora_studio.data.late_columns import LateColumns
from qlora_studio.data.limits import (
    LISTED_LINES,
    MAX_RECORD_CHARACTERS,
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_UNUSABLE_ROWS,
)
from qlora_studio.data.lines import LineChunk
from qlora_studio.data.message_trees import read_trees
from qlora_studio.data.plain_chats import PlainChats, PlainChatsReader, may_be_plain
from qlora_studio.data.record import (
    Conversation,
    Place,
    Record,
    RecordError,
    SpellingNeededError,
    chat_of,
    spelled,
)
from qlora_studio.data.row_digest import digest_of
from qlora_studio.data.row_table import batch_of_plain_chats
from qlora_studio.data.rows_writer import RowsWriter
from qlora_studio.data.source_file import Told
from qlora_studio.data.strict_json import parse_spelled
from qlora_studio.errors import StudioError

_TELL_EVERY_S = 0.1
_THREADS = min(4, os.cpu_count() or 1)
_READ_AHEAD = _THREADS + 1  # chunks that wait for their turn

Out = TypeVar("Out")


class Intake:
    """Takes the records of one file after another."""

    def __init__(self, writer: RowsWriter, told: Told, bytes_in_all: int) -> None:
        self.tally = Tally()
        self._writer = writer
        self._told = told
        self._bytes_in_all = bytes_in_all
        self._name = ""  # of the file in hand
        self._bytes_before = 0  # of the files that were taken
        self._told_at = 0.0
        self._seen: set[bytes] = set()
        self._digests = array("Q")  # the first half of each imported row's, in their order
        self._late = LateColumns(Layout("text", {}))
        self._merged: list[bytes] = []  # digests of the first rows that were there before

    def take(self, file: FileRecords, layout: Layout, index: int, columns: Collection[str] = ()) -> None:
        """All records of the file with this number.

        columns: those that its first records have; where later ones may have others that count
        Raises: LateColumnError where they do.
        """
        convert = converter(layout)
        self._late = LateColumns(layout, columns)
        self._name = file.source.name
        if layout.is_of_trees:
            self._take_trees(file, layout, index)
        elif file.kind == "JSON lines" and may_be_plain(layout):
            self._take_chunks(file, layout, convert, index)
        else:
            for record in self._told_of(file, layout):
                self._take_record(record, convert, index)
        self._bytes_before += file.source.size
        self._tell(0)

    def _take_trees(self, file: FileRecords, layout: Layout, index: int) -> None:
        records = self._told_of(file, layout)
        for part in read_trees(records, layout.map, all_paths=layout.all_answers, name=self._name):
            for conversation, place in part.paths:
                self._take_conversations([conversation], place, index)
            self.tally.folded += part.folded
            for reason, place in part.skipped:
                self.tally.skip(reason, place.line)

    def _told_of(self, file: FileRecords, layout: Layout) -> Iterator[Record]:
        for record in file.records(layout.map.values()):
            self._late.look(record.value)
            yield record
            if time.monotonic() - self._told_at > _TELL_EVERY_S:
                self._tell(file.done(record.place))

    def finish(self) -> None:
        """Tell the tally which rows others were equal to, as far as they are listed."""
        imported = np.frombuffer(self._digests, dtype=np.uint64)
        self.tally.equal_rows = np.flatnonzero(np.isin(imported, _halves(self._merged))).tolist()

    def _take_chunks(self, file: FileRecords, layout: Layout, convert: Convert, index: int) -> None:
        line = 1
        chats = PlainChatsReader(layout, self._late)
        for chunk, plain in _ahead(lambda chunk: chats.read(chunk.block), file.line_chunks()):
            if plain is None:
                lines = chunk.lines()
                self._take_lines(file.records_of_lines(lines, line, chunk.offset), convert, index)
                line += len(lines)
            else:
                self._take_plain(file, chunk, plain, line, convert, index)
                line += len(plain.plain)
            self._tell(file.done(Place(line, chunk.offset)))

    def _take_plain(
        self, file: FileRecords, chunk: LineChunk, plain: PlainChats, line: int, convert: Convert, index: int
    ) -> None:
        at = np.flatnonzero(plain.plain)
        rows = batch_of_plain_chats(
            line + at,
            index,
            chunk.offset + plain.offsets[at],
            plain.sizes[at],
            plain.starts,
            plain.roles,
            plain.contents,
        )
        taken = 0
        for others_before, other in enumerate(np.flatnonzero(~plain.plain).tolist()):
            self._take_batch(rows, plain, taken, other - others_before)
            taken = other - others_before
            start = int(plain.offsets[other])
            text = chunk.block[start : start + int(plain.sizes[other])]
            records = file.records_of_lines([text], line + other, chunk.offset + start)
            self._take_lines(records, convert, index)
        self._take_batch(rows, plain, taken, len(at))

    def _take_lines(self, records: Iterator[Record], convert: Convert, index: int) -> None:
        for record in records:
            self._late.look(record.value)
            self._take_record(record, convert, index)

    def _take_batch(self, rows: Any, plain: PlainChats, start: int, end: int) -> None:
        """Rows `start` to `end` of a batch."""
        new = np.array(self._new(plain.digests[start:end]), dtype=np.int64) + start
        self.tally.imported += len(new)
        self.tally.duplicates += end - start - len(new)
        if not len(new):
            return
        aliased = self._writer.rows + np.flatnonzero(plain.aliased[new])
        self.tally.note_rows("role_alias", aliased.tolist())
        self._writer.add_batch(rows.slice(start, end - start) if len(new) == end - start else rows.take(new))

    def _take_record(self, record: Record, convert: Convert, index: int) -> None:
        try:
            conversations = _conversations(record, convert)
        except RecordError as reason:
            self.tally.skip(reason, record.place.line)
            self._refuse_unusable()
        else:
            self._take_conversations(conversations, record.place, index)

    def _take_conversations(self, conversations: Sequence[Conversation], place: Place, index: int) -> None:
        """All of one record; it counts as merged where each of them was there before."""
        new = self._new([digest_of(conversation) for conversation in conversations])
        for at in new:
            for note in conversations[at].notes:
                self.tally.note_rows(note, [self._writer.rows])
            self._writer.add(conversations[at], place, index)
        if new:
            self.tally.imported += 1
            self.tally.equal_parts += len(conversations) - len(new)
        else:
            self.tally.duplicates += 1

    def _new(self, digests: list[bytes]) -> Sequence[int]:
        """Which of these rows weren't there before."""
        if len(digests) == 1 and digests[0] not in self._seen:  # the usual case, and far faster
            self._seen.add(digests[0])
            self._digests.append(int.from_bytes(digests[0][:8], sys.byteorder))
            self._refuse_too_many()
            return (0,)
        if self._seen.isdisjoint(digests) and len(set(digests)) == len(digests):
            self._seen.update(digests)
            self._digests.frombytes(_halves(digests).tobytes())
            self._refuse_too_many()
            return range(len(digests))
        new: list[int] = []
        for index, digest in enumerate(digests):
            if digest in self._seen:
                self._merged.append(digest)
            else:
                self._seen.add(digest)
                new.append(index)
        self._merged = self._merged[:LISTED_LINES]
        self._digests.frombytes(_halves([digests[index] for index in new]).tobytes())
        self._refuse_too_many()
        return new

    def _refuse_unusable(self) -> None:
        """Nobody waits for the end of a file whose rows are all alike."""
        if not self.tally.imported and self.tally.skipped - self.tally.left_out >= MAX_UNUSABLE_ROWS:
            worst = self.tally.problems()[0]
            raise StudioError(
                f"{self._name}: none of the first {self.tally.rows_in:,} rows can be used. "
                f"{worst.count:,} of them: {worst.reason}, first in line {worst.line:,}.",
                hint="Choose the format or the columns by hand, or another file.",
            )

    def _refuse_too_many(self) -> None:
        if len(self._digests) > MAX_ROWS:
            raise StudioError(
                f"{self._name} has more rows than the {MAX_ROWS:,} that are read.",
                hint="Split the file, and train on its parts in turn.",
            )

    def _tell(self, done: int) -> None:
        """done: bytes of the file in hand."""
        self._told_at = time.monotonic()
        self._told(self._bytes_before + done, self._bytes_in_all, f"{self.tally.rows_in:,} rows read")


def _conversations(record: Record, convert: Convert) -> Sequence[Conversation]:
    if isinstance(record.value, RecordError):
        raise record.value
    try:
        conversations = convert(record.value)
    except SpellingNeededError:
        value = spelled(record.value) if record.json is None else chat_of(parse_spelled(record.json))
        conversations = convert(value)
    if any(conversation.characters > MAX_ROW_BYTES for conversation in conversations):
        raise RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB")
    if len(conversations) > 1:
        characters = sum(conversation.characters for conversation in conversations)
        if characters > MAX_RECORD_CHARACTERS:
            raise RecordError(f"its rows together are longer than {MAX_RECORD_CHARACTERS / 1e6:.0f} MB")
    return conversations


def _halves(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype=np.uint64)[::2]


def _ahead(work: Callable[[LineChunk], Out], chunks: Iterator[LineChunk]) -> Iterator[tuple[LineChunk, Out]]:
    """Each chunk with what `work` makes of it, in their order; some are in work while one is taken."""
    with ThreadPoolExecutor(_THREADS) as threads:
        waiting: deque[tuple[LineChunk, Future[Out]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, threads.submit(work, chunk)))
            if len(waiting) > _READ_AHEAD:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
