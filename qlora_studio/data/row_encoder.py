"""Rows to token ids with loss weights: the one way that preview, histogram and training share (D4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.run_config import PREFERENCES
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.encoded import Encoded, Span
from qlora_studio.data.masking import Rendered, Turn, render_chat, render_prompt, turns_of
from qlora_studio.data.preference_rows import fit_pair, sides_of, why_left_out
from qlora_studio.data.template import ChatTemplate
from qlora_studio.data.token_view import Token
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import ModelTokenizer
from qlora_studio.errors import StudioError

ROWS_AT_ONCE = 512  # enough for all cores; little memory


@dataclass(frozen=True)
class Target:
    """What an encoder-decoder writes.

    begins:      the token of the row that the decoder starts with
    most:        tokens of the target that are kept
    text_begins: the first of its characters in the row's text
    """

    begins: int
    most: int
    text_begins: int


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """A whole row in tokens, before any limit on its length.

    worse:  for the methods of preferences: the same chat with the worse answer, or the one rated bad
    target: of an encoder-decoder; what stands before it is the source
    """

    row: Row
    text: str
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    special_in_text: int  # names of special tokens in the data, encoded as text
    encoded: Encoded
    worse: EncodedRow | None = None
    target: Target | None = None

    @property
    def tokens(self) -> int:
        """Of it and of what stands beside it."""
        return len(self.ids) + (self.worse.tokens if self.worse else 0)

    @property
    def learned_tokens(self) -> int:
        """How many tokens the loss counts; 0 where one of two chats has none."""
        learned = int(np.count_nonzero(self.weights))
        if self.worse is None:
            return learned
        return learned + self.worse.learned_tokens if learned and self.worse.learned_tokens else 0


@dataclass(frozen=True)
class UnusableRow:
    """A row that the template can't render."""

    row: Row
    reason: str
    hint: str = ""


@dataclass(frozen=True, eq=False)
class FittedRow:
    """What is left of a row within the length limit. `fate`: whole | cut | dropped | split."""

    pieces: tuple[TokenizedRow, ...]
    fate: str


class RowEncoder:
    """One model's tokenizer and template, and the settings that decide what is learned."""

    target_len = 0  # of an encoder-decoder: tokens that a target may have
    limit_keys = "data.seq_len"  # the settings that limit a row
    limit_name = "the sequence length"  # the same in words
    otherwise = "another method (training.method)"  # what to choose where the data isn't what is needed

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        template: ChatTemplate,
        *,
        train_on: str,
        method: str = "sft",
        stop_ids: Sequence[int] = (),
    ) -> None:
        """`stop_ids`: what ends an answer in this template, beside the tokenizer's own."""
        self.tokenizer = tokenizer
        self.template = template
        if method in PREFERENCES and train_on == "everything":
            raise StudioError(
                "Preferences are between answers: data.train_on can't be 'everything'.",
                hint="Set data.train_on to 'answers' (--set data.train_on=answers).",
            )
        kto = "last_answer" if method == "kto" else train_on  # its question is all that stands before
        self.train_on = "everything" if method == "pretrain" else kto
        self.method = method
        self.stop_ids = tuple(sorted({*tokenizer.special.stop_ids, *stop_ids}))

    @property
    def needed(self) -> str:
        """What the data must have, where much of it is left out."""
        return "rated answers" if self.method == "kto" else "better and worse answers"

    @property
    def way_on(self) -> str:
        """Where nothing, or little, is what is needed; a sentence."""
        return f"Choose data with {self.needed}, or {self.otherwise}."

    @property
    def settings(self) -> dict[str, object]:
        """What else the tokens depend on, beside what is common to all encoders."""
        return {}

    def left_out(self, row: Row) -> str:
        """Why nothing can be learned from the row; empty where something can."""
        return why_left_out(row, self.method)

    def longest_row(self, seq_len: int) -> int:
        """Tokens that a row may have with all that belongs to it."""
        return seq_len

    def limit_words(self, seq_len: int) -> str:
        """How long a row may be."""
        return f"{seq_len:,} tokens"

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow | UnusableRow]:
        """All of them, in their order."""
        return self._joined(rows, self._encoded(self._rendered(self._sides(rows))))

    def encode_each(self, batches: Iterable[Sequence[Row]]) -> Iterator[list[EncodedRow | UnusableRow]]:
        """As `encode` of one batch after the other; while one is encoded the next one is rendered."""
        with ThreadPoolExecutor(1) as thread:
            before: tuple[Sequence[Row], Future[list[EncodedRow | UnusableRow]]] | None = None
            for batch in batches:
                # here: only the main thread can end a template in time
                rendered = self._rendered(self._sides(batch))
                encoding = (batch, thread.submit(self._encoded, rendered))
                if before is not None:
                    yield self._joined(before[0], before[1].result())
                before = encoding
            if before is not None:
                yield self._joined(before[0], before[1].result())

    def encode_prompt(
        self, messages: Sequence[Message], row: Row | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """A chat that waits for an answer; the tools it may call are those of `row`.

        Raises: StudioError where the template fails.
        """
        tools = row.tools if row else ""
        prompt = render_prompt(messages, self.template, self.tokenizer.special_in, tools)
        (encoded,) = self.tokenizer.encode_rendered([prompt.text], [prompt.foreign])
        return prompt.text, tuple(encoded.ids.tolist())

    def encode_beginning(self, text: str) -> tuple[int, ...]:
        """A text that goes on."""
        (encoded,) = self.tokenizer.encode_texts([text])
        ids = encoded.ids.tolist()
        if ids and ids[-1] == self.tokenizer.special.eos_id:  # some tokenizers end every text
            ids.pop()
        return tuple(ids)

    def tokens_of(self, encoded: EncodedRow, seq_len: int, too_long: str) -> tuple[Token, ...]:
        """The row as a person sees it; of a pair the chat with the better answer, then the other one."""
        worse = encoded.worse
        if worse is None or self.method == "kto":
            chats = [encoded] if worse is None else [encoded, worse]
            each = [(chat, tokens_kept(chat, seq_len, too_long)) for chat in chats]
        else:
            pair = _pair(encoded, worse, seq_len, too_long)
            kept = (pair.second, len(pair.ids) - pair.second) if pair else (0, 0)
            each = list(zip((encoded, worse), map(range, kept), strict=True))
        return tuple(
            token for chat, kept in each for token in self._tokens_of(chat, kept, is_worse=chat is worse)
        )

    def _tokens_of(self, encoded: EncodedRow, kept: Collection[int], *, is_worse: bool) -> tuple[Token, ...]:
        """kept: those within the limit."""
        turns = self._turns(encoded)
        tokens, shown_to, turn = [], 0, 0
        spans = encoded.encoded.spans()
        spans += [(len(encoded.text), len(encoded.text))] * (len(encoded.ids) - len(spans))  # EOS at the end
        shown = _with_spaces(encoded.text, spans)
        for i, (id, (start, end)) in enumerate(zip(encoded.ids.tolist(), spans, strict=True)):
            while turn < len(turns) and turns[turn].end <= start:
                turn += 1
            special = self.tokenizer.is_special(id)
            begin, last = shown[i]
            text = encoded.text[max(begin, shown_to) : last]  # a character of several tokens stands once
            if special and start == end:
                text = self.tokenizer.name_of(id)  # put there by the tokenizer, not written in the text
            weight = encoded.weights[i]
            learned = "avoided" if is_worse or weight < 0 else "learned"
            fate = "cut" if i not in kept else learned if weight else "context"
            role = turns[turn].role if turn < len(turns) else ""
            tokens.append(Token(text, id, fate, role, special))
            shown_to = max(shown_to, last)
        return tuple(tokens)

    def _turns(self, encoded: EncodedRow) -> tuple[Turn, ...]:
        if encoded.row.text is not None:
            return ()
        return turns_of(encoded.row, self.template, self.tokenizer.special_in)

    def _rendered(self, rows: Sequence[Row]) -> list[tuple[Row, Rendered | UnusableRow | None]]:
        """None for a text."""
        found: list[tuple[Row, Rendered | UnusableRow | None]] = []
        for row in rows:
            try:
                found.append((row, self._render(row)))
            except StudioError as error:
                found.append((row, UnusableRow(row, error.message, error.hint)))
        return found

    def _encoded(
        self, rendered: Sequence[tuple[Row, Rendered | UnusableRow | None]]
    ) -> list[EncodedRow | UnusableRow]:
        chats = [chat for _, chat in rendered if isinstance(chat, Rendered)]
        texts = [row.text for row, _ in rendered if row.text is not None]
        of_chats = iter(
            self.tokenizer.encode_rendered([chat.text for chat in chats], [chat.foreign for chat in chats])
        )
        of_texts = iter(self.tokenizer.encode_texts(texts))
        bad = -1.0 if self.method == "kto" else 0.0  # of a rated set other methods learn the good answers
        done: list[EncodedRow | UnusableRow] = []
        for row, chat in rendered:
            if isinstance(chat, UnusableRow):
                done.append(chat)
            elif isinstance(chat, Rendered):
                done.append(_chat(row, chat, next(of_chats), bad))
            elif row.text is not None:
                done.append(self._text(row, row.text, next(of_texts)))
        return done

    def _sides(self, rows: Sequence[Row]) -> Sequence[Row]:
        if self.method not in PREFERENCES:
            return rows
        return [side for row in rows for side in sides_of(row, self.method)]

    def _joined(
        self, rows: Sequence[Row], sides: list[EncodedRow | UnusableRow]
    ) -> list[EncodedRow | UnusableRow]:
        """One for each row; `sides` are what `_sides` gave, encoded."""
        if self.method not in PREFERENCES:
            return sides
        found: list[EncodedRow | UnusableRow] = []
        at = iter(sides)
        for row in rows:
            first, *others = (next(at) for _ in sides_of(row, self.method))
            unusable = next((side for side in (first, *others) if isinstance(side, UnusableRow)), None)
            if unusable is not None:
                found.append(replace(unusable, row=row))
                continue
            assert isinstance(first, EncodedRow)
            if why_left_out(row, self.method):
                first.weights[:] = 0  # learned by other methods
            worse = others[0] if others else None
            assert not isinstance(worse, UnusableRow)
            found.append(replace(first, row=row, worse=worse))
        return found

    def _render(self, row: Row) -> Rendered | None:
        """None: it is a text."""
        if row.text is not None:
            return None
        return render_chat(row, self.template, self.train_on, self.tokenizer.special_in)

    def _text(self, row: Row, text: str, encoded: Encoded) -> EncodedRow:
        """A text is learned whole, with the token that ends it."""
        ids, eos = encoded.ids, self.tokenizer.special.eos_id
        if not len(ids) or ids[-1] != eos:
            ids = np.append(ids, np.int32(eos))
        weights = np.ones(len(ids), dtype=np.float32)
        weights[0] = 0  # nothing stands before it
        return EncodedRow(row, text, ids, weights, len(self.tokenizer.special_in(text)), encoded)


def _with_spaces(text: str, spans: Sequence[Span]) -> list[Span]:
    """White space that is part of no token, as with T5, goes with the one after it; a line's end before.

    spans: of each token in `text`; one that stands for nothing in it is left alone
    """
    found = list(spans)
    for i in range(1, len(found)):
        (first, before), (after, end) = found[i - 1], found[i]
        if first < before and after < end and text[before:after].isspace():
            middle = text.rfind("\n", before, after) + 1 or before
            found[i - 1], found[i] = (first, middle), (middle, end)
    return found


def fit(encoded: EncodedRow, seq_len: int, too_long: str) -> FittedRow:
    """Within `seq_len` tokens. A longer text becomes several pieces, a longer chat what `too_long` says.

    Raises: StudioError where `too_long` is "stop" and the chat is longer.
    """
    number, ids, weights = encoded.row.row, encoded.ids, encoded.weights
    if encoded.target is not None:
        return _fit_parts(encoded, encoded.target, seq_len, too_long)
    if encoded.tokens > seq_len and too_long == "stop" and encoded.row.text is None:
        raise StudioError(
            f"The chat in line {encoded.row.line:,} has {encoded.tokens:,} tokens; "
            f"the sequence length is {seq_len:,}.",
            hint="Raise the sequence length, or choose to drop or to cut longer chats.",
        )
    if encoded.worse is not None:
        both = _pair(encoded, encoded.worse, seq_len, too_long)
        if both is None:
            return FittedRow((), "dropped")
        fate = "cut" if len(both.ids) < encoded.tokens else "whole"
        return FittedRow((both,) if both.weighs_both else (), fate)
    if len(ids) <= seq_len:
        return FittedRow((TokenizedRow(number, ids, weights),), "whole")
    if encoded.row.text is not None:
        return FittedRow(tuple(_pieces(number, ids, weights, seq_len)), "split")
    if too_long == "truncate":
        return FittedRow((TokenizedRow(number, ids[:seq_len], weights[:seq_len]),), "cut")
    return FittedRow((), "dropped")


def _fit_parts(encoded: EncodedRow, target: Target, seq_len: int, too_long: str) -> FittedRow:
    """Source and target each within its own limit."""
    source, written = _parts(encoded, target)
    if too_long == "stop" and (source > seq_len or written > target.most):
        part, tokens, name, most = (
            ("source", source, "sequence length", seq_len)
            if source > seq_len
            else ("target", written, "target length", target.most)
        )
        raise StudioError(
            f"The {part} in line {encoded.row.line:,} has {tokens:,} tokens; the {name} is {most:,}.",
            hint=f"Raise the {name}, or choose to drop or to cut longer rows.",
        )
    kept = list(tokens_kept(encoded, seq_len, too_long))
    if not kept:
        return FittedRow((), "dropped")
    begins = kept.index(target.begins)
    row = TokenizedRow(encoded.row.row, encoded.ids[kept], encoded.weights[kept], begins)
    return FittedRow((row,), "whole" if len(kept) == len(encoded.ids) else "cut")


def _parts(encoded: EncodedRow, target: Target) -> tuple[int, int]:
    """Tokens of the source and of the target, each with its end."""
    return target.begins, len(encoded.ids) - target.begins - 1


def _pair(better: EncodedRow, worse: EncodedRow, seq_len: int, too_long: str) -> TokenizedRow | None:
    """None where both don't fit and aren't to be cut."""
    first, second = (TokenizedRow(better.row.row, side.ids, side.weights) for side in (better, worse))
    return fit_pair(first, second, seq_len, too_long)


def _pieces(
    number: int, ids: NDArray[np.int32], weights: NDArray[np.float32], seq_len: int
) -> list[TokenizedRow]:
    """Each piece opens with the last token of the one before it, so that every token is learned once."""
    pieces = []
    for start in range(0, len(ids) - 1, seq_len - 1):
        piece = weights[start : start + seq_len].copy()
        piece[0] = 0
        pieces.append(TokenizedRow(number, ids[start : start + seq_len], piece))
    return pieces


def tokens_kept(encoded: EncodedRow, seq_len: int, too_long: str) -> Sequence[int]:
    """Those within the limit; none where the row is dropped. A source that is cut keeps its end's token."""
    every, target = range(len(encoded.ids)), encoded.target
    if target is None:
        if encoded.row.text is not None or len(encoded.ids) <= seq_len:
            return every
        return every[:seq_len] if too_long == "truncate" else ()
    source, written = _parts(encoded, target)
    if source <= seq_len and written <= target.most:
        return every
    if too_long != "truncate":
        return ()
    end = target.begins - 1
    return [*every[: min(end, seq_len - 1)], end, *every[target.begins :][: target.most + 1]]


def _chat(row: Row, chat: Rendered, encoded: Encoded, bad: float) -> EncodedRow:
    """bad: what the tokens of an answer that was rated bad count."""
    weights = np.zeros(len(encoded.ids), dtype=np.float32)
    for span in chat.learned:
        weights[encoded.tokens_of(span.start, span.end)] = span.weight
    weights[:1] = 0  # nothing stands before the first token that could predict it
    if row.label is False:
        weights *= bad
    return EncodedRow(row, chat.text, encoded.ids, weights, len(chat.foreign), encoded)
