"""Rows for an encoder-decoder: a source that is read whole, and the target that is written of it.

The target is the last answer of a chat, the source all that stands before it. In tokens a row is

    source, the token that ends a text | the token that the decoder starts with, target, the ending token

so a prompt is all up to the token that the decoder starts with, and what is learned follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.architecture import not_built
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.encoded import Encoded, Span
from qlora_studio.data.masking import Rendered, Turn, render_prompt
from qlora_studio.data.row_encoder import EncodedRow, RowEncoder, Target, UnusableRow
from qlora_studio.data.template import ChatTemplate
from qlora_studio.data.tokenizer import ModelTokenizer
from qlora_studio.errors import StudioError

NO_TARGET = "without a target"


class SourceTargetEncoder(RowEncoder):
    """One encoder-decoder's tokenizer, and how a chat before its last answer is written for it."""

    needed = "pairs of a source and a target, such as questions with answers"
    limit_keys = "data.seq_len or data.target_len"
    limit_name = "the sequence length (of sources) or the target length"
    otherwise = "a causal model"

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        template: ChatTemplate,
        *,
        train_on: str,
        method: str,
        start_id: int,
        target_len: int,
        stop_ids: Sequence[int] = (),
    ) -> None:
        """start_id: the token that the decoder starts with. Raises: StudioError where it learns otherwise."""
        if first := next(not_built(method=method, train_on=train_on), None):
            raise first.error
        super().__init__(tokenizer, template, train_on="last_answer", method=method, stop_ids=stop_ids)
        self.start_id = start_id
        self.target_len = target_len

    def left_out(self, row: Row) -> str:
        """A text alone, or a chat in which nothing is answered."""
        return "" if row.text is None and _last_answer(row) else NO_TARGET

    def longest_row(self, seq_len: int) -> int:
        """Source, the token that the decoder starts with, and target."""
        return seq_len + 1 + self.target_len

    def limit_words(self, seq_len: int) -> str:
        """Of both parts."""
        return f"{seq_len:,} tokens of source or {self.target_len:,} of target"

    @property
    def settings(self) -> dict[str, object]:
        """Beside those of every encoder."""
        return {"start_id": self.start_id, "target_len": self.target_len}

    def encode_prompt(
        self, messages: Sequence[Message], row: Row | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """The source of what is to be written, and the token that the decoder starts with."""
        text, ids = super().encode_prompt(messages, row)
        return text, (*ids, self.tokenizer.special.eos_id, self.start_id)

    def _render(self, row: Row) -> Rendered:
        """Raises: StudioError where it has no target, or nothing to write it of."""
        at = 0 if row.text is not None else _last_answer(row)
        if not at:
            raise StudioError(
                f"It is a row {NO_TARGET}.", hint=f"An encoder-decoder is trained on {self.needed}."
            )
        find_special = self.tokenizer.special_in
        source = render_prompt(row.messages[:at], self.template, find_special, row.tools)
        target = row.messages[at].content.strip()
        return Rendered(source.text, (), source.foreign, Rendered(target, (), tuple(find_special(target))))

    def _encoded(
        self, rendered: Sequence[tuple[Row, Rendered | UnusableRow | None]]
    ) -> list[EncodedRow | UnusableRow]:
        pairs = [(chat, chat.target) for _, chat in rendered if isinstance(chat, Rendered) and chat.target]
        sources, targets = (
            iter(
                self.tokenizer.encode_rendered([part.text for part in side], [part.foreign for part in side])
            )
            for side in ([source for source, _ in pairs], [target for _, target in pairs])
        )
        done: list[EncodedRow | UnusableRow] = []
        for row, chat in rendered:
            if isinstance(chat, UnusableRow):
                done.append(chat)
            elif chat is not None and chat.target is not None:
                done.append(self._joined_parts(row, chat, chat.target, next(sources), next(targets)))
        return done

    def _joined_parts(
        self, row: Row, source: Rendered, target: Rendered, read: Encoded, written: Encoded
    ) -> EncodedRow:
        eos = self.tokenizer.special.eos_id
        ids = np.concatenate(
            [read.ids, np.array([eos, self.start_id], np.int32), written.ids, np.array([eos], np.int32)]
        )
        begins = len(read.ids) + 1
        weights = np.zeros(len(ids), dtype=np.float32)
        said = row.messages[_last_answer(row)].loss_weight
        weights[begins + 1 :] = 0.0 if row.label is False else 1.0 if said is None else said
        return EncodedRow(
            row,
            f"{source.text}\n{target.text}",
            ids,
            weights,
            len(source.foreign) + len(target.foreign),
            _Joined(ids, read, written, len(source.text)),
            target=Target(begins, self.target_len, len(source.text) + 1),
        )

    def _turns(self, encoded: EncodedRow) -> tuple[Turn, ...]:
        assert encoded.target is not None
        begins = encoded.target.text_begins
        return Turn(0, begins, "user"), Turn(begins, len(encoded.text), "assistant")


def _last_answer(row: Row) -> int:
    """Its place among the messages; 0: there is none that says something, or nothing stands before it."""
    said = [
        k for k, message in enumerate(row.messages) if message.role == "assistant" and message.content.strip()
    ]
    return said[-1] if said else 0


class _Joined:
    """The tokens of a source and of its target, in the text of both with a line's end between."""

    def __init__(self, ids: NDArray[np.int32], read: Encoded, written: Encoded, source: int) -> None:
        """source: characters of it"""
        self.ids = ids
        self._read, self._written, self._source = read, written, source

    def tokens_of(self, start: int, end: int) -> slice:
        """Of one part alone: the characters from `start` to before `end`."""
        if end <= self._source:
            return self._read.tokens_of(start, end)
        first = self._source + 1
        found, before = self._written.tokens_of(start - first, end - first), len(self._read.ids) + 2
        return slice(found.start + before, found.stop + before)

    def spans(self) -> list[Span]:
        """The characters of the text that each token stands for; of those put between, none."""
        first = self._source + 1
        between = [(self._source, self._source)] * 2
        written = [(start + first, end + first) for start, end in self._written.spans()]
        return [*self._read.spans(), *between, *written]
