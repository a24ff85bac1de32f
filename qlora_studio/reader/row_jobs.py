"""Rows of an imported data set for the eye: as they stand, in tokens, and how long they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from qlora_studio.data.conversation import Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.lengths import count_lengths, histogram, read_lengths
from qlora_studio.data.limits import SHOWN_CHARACTERS
from qlora_studio.data.row_encoder import UnusableRow
from qlora_studio.data.token_view import Token
from qlora_studio.data.too_long import source_lengths, too_long
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.protocol.lines import ANSWERS, BrokenLineError
from qlora_studio.reader.model_text import ModelTexts

Told = Callable[[int, int, str], None]

_MOST_TEXT = 50_000  # characters of a rendered row that are shown beside its tokens


def show_rows(request: reading.ShowRows, dataset: Dataset) -> reading.RowsShown:
    """As many as a line holds, texts of a page each where they are longer than that."""
    if request.only:
        wanted = [row for row in request.only if 0 <= row < len(dataset)]
        page = wanted[max(0, request.start) : max(0, request.start) + request.count]
        rows, total = [dataset.row(row, source=True) for row in page], len(wanted)
    else:
        rows, total = dataset.search(request.search, request.start, request.count, source=True)
    answer = reading.RowsShown(id=request.id, rows=tuple(rows), total=total)
    if not _fits(answer):
        rows = [_cut(row) for row in rows]
        answer = reading.RowsShown(id=request.id, rows=tuple(rows), total=total)
    while not _fits(answer):
        rows = rows[: len(rows) // 2]
        answer = reading.RowsShown(id=request.id, rows=tuple(rows), total=total)
    return answer


def count_tokens(
    request: reading.CountTokens, dataset: Dataset, texts: ModelTexts, told: Told
) -> reading.TokensCounted:
    """Of every row, with the functions that training uses."""
    encoder = texts.of(request.model).encoder(request.data, request.method)
    lengths = count_lengths(dataset, encoder, told)
    counted = read_lengths(lengths)
    sources = source_lengths(counted) if encoder.target_len else None
    bins, width = histogram(counted[:, 0] if sources is None else sources)
    return reading.TokensCounted(
        id=request.id,
        lengths=lengths,
        too_long=int(too_long(counted, request.data.seq_len, encoder.target_len).sum()),
        bins=bins,
        bin_width=width,
        has_source=sources is not None,
        longest_source=int(sources.max(initial=0)) if sources is not None else 0,
        longest_target=int(counted[:, 1].max(initial=0)) if sources is not None else 0,
    )


def show_tokens(request: reading.ShowTokens, dataset: Dataset, texts: ModelTexts) -> reading.TokensShown:
    """Raises: StudioError where the template refuses the row."""
    if not 0 <= request.row < len(dataset):
        raise StudioError(f"There is no row {request.row:,}; the last one is {len(dataset) - 1:,}.")
    encoder = texts.of(request.model).encoder(request.data, request.method)
    (encoded,) = encoder.encode([dataset.row(request.row)])
    if isinstance(encoded, UnusableRow):
        raise StudioError(f"Line {encoded.row.line:,}: {encoded.reason}", hint=encoded.hint)
    tokens = encoder.tokens_of(encoded, request.data.seq_len, request.data.too_long)
    page: Sequence[Token] = tokens[request.start : request.start + request.count]

    def answer() -> reading.TokensShown:
        return reading.TokensShown(
            id=request.id,
            row=request.row,
            tokens=tuple(page),
            text=encoded.text[:_MOST_TEXT],
            start=request.start,
            total=len(tokens),
        )

    while not _fits(answer()):
        page = page[: len(page) // 2]
    return answer()


def _fits(answer: reading.ReaderAnswer) -> bool:
    try:
        ANSWERS.encode(answer)
    except BrokenLineError:
        return False
    return True


def _cut(row: Row) -> Row:
    """A widget is given no more of one text (S8)."""
    messages, rejected = (
        tuple(
            msgspec.structs.replace(message, content=message.content[:SHOWN_CHARACTERS], reasoning="")
            for message in chat[:50]
        )
        for chat in (row.messages, row.rejected)
    )
    text = row.text[:SHOWN_CHARACTERS] if row.text is not None else None
    tools = row.tools[:SHOWN_CHARACTERS]
    return msgspec.structs.replace(row, messages=messages, rejected=rejected, text=text, tools=tools)
