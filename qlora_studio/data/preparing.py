"""From imported rows to rows ready to be trained on: split, tokenized, counted, and written once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.data_parts import USUALLY_ALIKE
from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import PAIRS, PREFERENCES, RunConfig, SamplePrompt
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.held_out import content_hash, held_out_rows
from qlora_studio.data.limits import MANY_DROPPED
from qlora_studio.data.marked_rows import near_rows
from qlora_studio.data.mix import times_seen
from qlora_studio.data.near_rows import NEAR_VERSION
from qlora_studio.data.preference_rows import ForeignAnswers
from qlora_studio.data.prepared import (
    EncodedSample,
    PreparedInfo,
    PreparedRows,
    PreparedWriter,
    check_content,
    open_prepared,
)
from qlora_studio.data.row_encoder import ROWS_AT_ONCE, EncodedRow, RowEncoder, UnusableRow, fit
from qlora_studio.errors import StudioError

PREPARER_VERSION = 4  # raised when the same rows would give other tokens

MANY_LEFT_OUT = 0.01  # more than this share of rows that can't be rendered is asked about (D3)
_SAMPLES = 3  # prompts taken from the data where the person gave none
_SAMPLE_TOKENS = 64
_WORDS_OF_A_TEXT = 12  # that open a sample of raw text

_ALL_ALIKE = "all ask the same or are nearly equal, and such rows stay together"
_NONE_CAN_BE_LEARNED = "of those that were to be, none can be learned from"

Told = Callable[[int, int, str], None]  # done, of total, in words


@dataclass(frozen=True)
class Source:
    """Rows to learn from, and, where the person named a file for it, rows to evaluate on."""

    train: Dataset
    validation: Dataset | None = None


def prepare(
    source: Source, encoder: RowEncoder, config: RunConfig, told: Told, *, accept_left_out: bool = False
) -> PreparedRows:
    """From the cache where the same rows were prepared in the same way before.

    Raises: StudioError where nothing is left to learn from, or much is left out and that wasn't accepted.
    """
    folder = cache_folder() / "tokens" / _cache_key(source, encoder, config)
    if folder.exists():
        prepared = open_prepared(folder)
        check_content(prepared)
    else:
        prepared = _prepare_anew(folder, source, encoder, config, told)
    _refuse_little(prepared.info, source, encoder, config, accept_left_out)
    return prepared


def prepare_for_evaluation(rows: Dataset, encoder: RowEncoder, config: RunConfig, told: Told) -> PreparedRows:
    """All rows held out, none to learn from."""
    key = {"evaluate": rows.folder.name} | _settings(encoder, config)
    folder = cache_folder() / "tokens" / _hashed(key)
    if folder.exists():
        return open_prepared(folder)
    with PreparedWriter(folder) as writer:
        counts = _Counts()
        for row in _each(rows, told):
            counts.take(row, encoder, config, writer, held_out=True)
        counts.flush(encoder, config, writer)
        if not writer.validation.rows:
            raise StudioError(
                f"No row of {rows.report.path} can be evaluated: {counts.in_words(encoder, config)}.",
                hint=counts.hint(encoder, config),
            )
        return writer.finish(_info(writer, counts, encoder, config, rows.report.sha256, samples=()))


def sample_prompts(source: Source, encoder: RowEncoder, config: RunConfig, told: Told) -> tuple[str, ...]:
    """What `prepare` would take to be answered at each checkpoint."""
    split = _split(source, config, told)
    return tuple(sample.prompt for sample in _samples(source, split.apart, encoder, config))


def _prepare_anew(
    folder: Path, source: Source, encoder: RowEncoder, config: RunConfig, told: Told
) -> PreparedRows:
    split = _split(source, config, told)
    apart = split.apart
    with PreparedWriter(folder) as writer:
        counts = _Counts()
        for row in _each(source.train, told):
            held_out, times = bool(apart[row.row]), int(split.times[row.row])
            counts.unseen += not times
            if times:
                counts.take(row, encoder, config, writer, held_out=held_out, times=1 if held_out else times)
        for row in _each(source.validation, told) if source.validation else ():
            counts.take(row, encoder, config, writer, held_out=True)
        counts.finish(encoder, config, writer)
        counts.on_both_sides = _rows_on_both_sides(source)
        if _holds_out_a_share(source, config) and not writer.validation.rows:
            counts.none_held_out = _NONE_CAN_BE_LEARNED if apart.any() else _ALL_ALIKE
        samples = tuple(_samples(source, apart, encoder, config))
        info = _info(writer, counts, encoder, config, source.train.report.sha256, samples)
        if not info.train_rows:
            raise StudioError(
                f"No row of {source.train.report.path} has anything to learn from: "
                f"{counts.in_words(encoder, config)}.",
                hint=counts.hint(encoder, config),
            )
        return writer.finish(info)


@dataclass(frozen=True)
class _Split:
    """apart: rows that are held out; times: how often each of the others is learned in an epoch, 0: never."""

    apart: NDArray[np.bool_]
    times: NDArray[np.int64]


def _split(source: Source, config: RunConfig, told: Told) -> _Split:
    data, seed = config.data, config.training.seed
    weights = [part.weight for part in data.mix]
    times = times_seen(source.train.report, weights, len(source.train), seed)
    share = data.validation if isinstance(data.validation, float | int) else 0.0
    if share <= 0:
        return _Split(np.zeros(len(times), dtype=bool), times)
    near = near_rows(source.train, USUALLY_ALIKE, told).groups
    return _Split(held_out_rows(source.train, share, seed, near=near, seen=times > 0), times)


class _Counts:
    """Rows on their way into the files, and what happened to those that aren't there."""

    def __init__(self) -> None:
        self.rows = self.dropped = self.cut = self.nothing = self.special = self.on_both_sides = 0
        self.pairs = self.rated_bad = self.unseen = 0
        self.none_held_out = ""  # why, where a share of the rows was to be
        self.without: Counter[str] = Counter()  # rows that the method can't learn from, by the reason
        self.refused: list[UnusableRow] = []  # the first ones
        self.refused_rows = 0
        self._waiting: list[tuple[Row, bool, int]] = []
        self._foreign: ForeignAnswers | None = None

    def take(
        self,
        row: Row,
        encoder: RowEncoder,
        config: RunConfig,
        writer: PreparedWriter,
        *,
        held_out: bool,
        times: int = 1,
    ) -> None:
        """Rows are encoded many at once: on all cores."""
        if reason := encoder.left_out(row):
            self.without[reason] += 1
            return
        self._waiting.append((row, held_out, times))
        if len(self._waiting) == ROWS_AT_ONCE:
            self.flush(encoder, config, writer)

    def flush(self, encoder: RowEncoder, config: RunConfig, writer: PreparedWriter) -> None:
        """Encode and write what waits."""
        encoded = encoder.encode([row for row, _, _ in self._waiting])
        for item, (_, held_out, times) in zip(encoded, self._waiting, strict=True):
            self.rows += 1
            if isinstance(item, UnusableRow):
                self.refused_rows += 1
                if len(self.refused) < 10:
                    self.refused.append(item)
            else:
                self._write(item, config, writer, held_out, times)
        self._waiting = []

    def _write(
        self, item: EncodedRow, config: RunConfig, writer: PreparedWriter, held_out: bool, times: int
    ) -> None:
        self.special += item.special_in_text
        if config.training.method == "kto":
            self._write_rated(item, config, writer, held_out, times)
            return
        fitted = fit(item, config.data.seq_len, config.data.too_long)
        self.dropped += fitted.fate == "dropped"
        self.cut += fitted.fate == "cut"
        taught = [piece for piece in fitted.pieces if piece.learned_tokens]
        bad = item.row.label is False
        self.rated_bad += bad
        self.nothing += not taught and not bad and fitted.fate != "dropped"
        self.pairs += bool(item.row.rejected and taught and item.worse is None)
        for piece in taught * times:
            writer.add(piece, held_out=held_out)

    def _write_rated(
        self, item: EncodedRow, config: RunConfig, writer: PreparedWriter, held_out: bool, times: int
    ) -> None:
        """Each answer by itself, once the next row is known."""
        if self._foreign is None:
            self._foreign = ForeignAnswers(
                config.data.seq_len, lambda row, held_out: writer.add(row, held_out=held_out)
            )
        for side in (item, item.worse):
            if side is None:
                continue
            fitted = fit(replace(side, worse=None), config.data.seq_len, config.data.too_long)
            self.dropped += fitted.fate == "dropped"
            self.cut += fitted.fate == "cut"
            taught = [piece for piece in fitted.pieces if piece.learned_tokens]
            self.nothing += not taught and fitted.fate != "dropped"
            for piece in taught:
                self._foreign.add(piece, held_out, times)

    def finish(self, encoder: RowEncoder, config: RunConfig, writer: PreparedWriter) -> None:
        """After the last row."""
        self.flush(encoder, config, writer)
        if self._foreign is not None:
            self._foreign.finish()

    def in_words(self, encoder: RowEncoder, config: RunConfig) -> str:
        """Why rows are missing."""
        parts = [
            *((count, reason) for reason, count in self.without.items()),
            (self.dropped, f"longer than {encoder.limit_words(config.data.seq_len)}"),
            (self.nothing, "without a token to learn"),
            (self.rated_bad, "rated bad"),
            (self.refused_rows, "refused by the chat template"),
        ]
        words = ", ".join(f"{count:,} {what}" for count, what in parts if count) or "there are none"
        if self.refused:
            words += f" (line {self.refused[0].row.line:,}: {self.refused[0].reason.rstrip('.')})"
        return words

    def hint(self, encoder: RowEncoder, config: RunConfig) -> str:
        """What would help most."""
        missing = self.dropped + self.nothing + self.refused_rows
        if self.without and self.without.total() > missing:
            return encoder.way_on
        if config.training.method in PAIRS and self.nothing >= self.dropped + self.refused_rows:
            return "Both answers of a pair must say something of their own."
        if self.rated_bad > self.dropped + self.nothing + self.refused_rows:
            return "Plain finetuning learns answers that are rated good; this data has none."
        if self.dropped >= max(self.nothing, self.refused_rows):
            return f"Raise {encoder.limit_name}, or cut longer chats in place of dropping them."
        if self.refused and self.refused_rows >= self.nothing:
            return self.refused[0].hint or "Choose a model whose chat template takes such chats."
        if config.data.too_long == "truncate":
            return "Raise the sequence length: answers are cut away with the ends of the chats."
        return "The rows need answers: check which columns are read as what."


def _each(rows: Dataset, told: Told) -> Iterator[Row]:
    for row in rows:
        if row.row % ROWS_AT_ONCE == 0:
            told(row.row, len(rows), "Turning rows into tokens")
        yield row


def _holds_out_a_share(source: Source, config: RunConfig) -> bool:
    share = config.data.validation
    return source.validation is None and not isinstance(share, str) and share > 0


def _rows_on_both_sides(source: Source) -> int:
    """Equal rows in a validation file of its own; a share is split so that there are none (D9)."""
    if source.validation is None:
        return 0
    known = {content_hash(row) for row in source.train}
    return sum(content_hash(row) in known for row in source.validation)


def _samples(
    source: Source, apart: NDArray[np.bool_], encoder: RowEncoder, config: RunConfig
) -> Iterator[EncodedSample]:
    """The person's prompts, or the first turns of the first rows held out."""
    if config.samples:
        for asked in config.samples:
            yield _sample_of_prompt(asked, encoder, config)
        return
    candidates: Iterable[Row] = source.validation or (row for row in source.train if apart[row.row])
    if source.validation is None and not apart.any():
        candidates = source.train
    found = (sample for row in islice(candidates, 100) if (sample := _sample_of_row(row, encoder, config)))
    yield from islice(found, _SAMPLES)


def _sample_of_prompt(sample: SamplePrompt, encoder: RowEncoder, config: RunConfig) -> EncodedSample:
    if config.training.method == "pretrain":
        ids = encoder.encode_beginning(sample.prompt)
    else:
        _, ids = encoder.encode_prompt([Message("user", sample.prompt)])
    return EncodedSample(prompt=sample.prompt, ids=ids, max_tokens=sample.max_tokens)


def _sample_of_row(row: Row, encoder: RowEncoder, config: RunConfig) -> EncodedSample | None:
    if encoder.target_len and encoder.left_out(row):
        return None
    if row.text is not None:
        prompt = " ".join(row.text.split(" ")[:_WORDS_OF_A_TEXT])[:1000]
        ids = encoder.encode_beginning(prompt)
    else:
        roles = [message.role for message in row.messages]
        question = roles.index("user") if "user" in roles else 0
        asked = next((k for k, role in enumerate(roles) if k > question and role == "assistant"), 0)
        if not asked:
            return None
        prompt = row.messages[asked - 1].content
        try:
            _, ids = encoder.encode_prompt(row.messages[:asked], row)
        except StudioError:
            return None
    if len(ids) + _SAMPLE_TOKENS > encoder.longest_row(config.data.seq_len):
        return None
    return EncodedSample(prompt=prompt, ids=ids, max_tokens=_SAMPLE_TOKENS)


def _info(
    writer: PreparedWriter,
    counts: _Counts,
    encoder: RowEncoder,
    config: RunConfig,
    data_sha256: str,
    samples: tuple[EncodedSample, ...],
) -> PreparedInfo:
    special = encoder.tokenizer.special
    return PreparedInfo(
        content_sha256=writer.content_sha256(),
        data_sha256=data_sha256,
        tokenizer_sha256=encoder.tokenizer.sha256,
        template_sha256=encoder.template.sha256,
        seq_len=encoder.longest_row(config.data.seq_len),
        pad_id=special.pad_id,
        eos_id=special.eos_id,
        stop_ids=encoder.stop_ids,
        vocab_size=encoder.tokenizer.vocab_size,
        train_rows=writer.train.rows,
        validation_rows=writer.validation.rows,
        train_tokens=writer.train.tokens,
        train_learned_tokens=writer.train.learned_tokens,
        validation_learned_tokens=writer.validation.learned_tokens,
        longest=max(writer.train.longest, writer.validation.longest),
        too_long_dropped=counts.dropped,
        too_long_cut=counts.cut,
        nothing_to_learn=counts.nothing,
        not_rendered=counts.refused_rows,
        special_in_text=counts.special,
        rows_on_both_sides=counts.on_both_sides,
        samples=samples,
        refusals=tuple(f"line {item.row.line:,}: {item.reason}" for item in counts.refused),
        notes=tuple(_notes(counts, encoder, config)),
    )


def _notes(counts: _Counts, encoder: RowEncoder, config: RunConfig) -> Iterator[str]:
    """What a person should know before the start."""
    limit = encoder.limit_words(config.data.seq_len)
    if counts.unseen:
        yield f"{counts.unseen:,} rows of the mixture are not seen: their data sets weigh less than 1."
    for reason, count in counts.without.items():
        yield f"{count:,} {'row' if count == 1 else 'rows'} {reason}: left out."
    if counts.pairs:
        rows = "row has" if counts.pairs == 1 else "rows have"
        yield f"{counts.pairs:,} {rows} a better and a worse answer: the better one is learned."
    if counts.rated_bad:
        rows = "row has" if counts.rated_bad == 1 else "rows have"
        yield f"{counts.rated_bad:,} {rows} an answer rated bad: left out."
    if counts.dropped:
        yield f"{_chats_are(counts.dropped)} longer than {limit} and left out."
    if counts.cut:
        yield f"{_chats_are(counts.cut)} longer than {limit} and cut."
    if counts.nothing:
        yield (
            f"{counts.nothing:,} rows have no token to learn: their answers are empty or cut off. "
            "They are left out."
        )
    if counts.refused:
        first = counts.refused[0]
        yield (
            f"{counts.refused_rows:,} rows can't be rendered and are left out; the first one, "
            f"line {first.row.line:,}: {first.reason}"
        )
    if counts.special:
        yield f"{counts.special:,} names of special tokens in the data are encoded as plain text."
    if counts.none_held_out:
        yield (
            f"No row is held out: {counts.none_held_out}. So no evaluation loss is measured; "
            "data.validation may name a file of other rows."
        )
    if counts.on_both_sides:
        yield f"{counts.on_both_sides:,} rows held out are learned too: the evaluation would flatter."


def _chats_are(count: int) -> str:
    return "1 chat is" if count == 1 else f"{count:,} chats are"


def _refuse_little(
    info: PreparedInfo, source: Source, encoder: RowEncoder, config: RunConfig, accept_left_out: bool
) -> None:
    rows = len(source.train) + (len(source.validation) if source.validation else 0)
    if info.not_rendered > MANY_LEFT_OUT * rows and not accept_left_out:
        raise StudioError(
            f"{info.not_rendered:,} of {rows:,} rows can't be rendered with this model's chat template; "
            f"{info.refusals[0]}",
            hint="Accept that they are left out (--accept-skipped), or mend them.",
        )
    if info.too_long_dropped > MANY_DROPPED * rows and not accept_left_out:
        raise StudioError(
            f"{info.too_long_dropped:,} of {rows:,} chats are longer than "
            f"{encoder.limit_words(config.data.seq_len)} and would be left out.",
            hint=f"Raise {encoder.limit_keys}, cut them (data.too_long), or accept it (--accept-skipped).",
        )
    if isinstance(config.data.validation, str) and not info.validation_rows:
        needed = encoder.target_len or encoder.method in PREFERENCES
        raise StudioError(
            f"No row of {config.data.validation} can be evaluated.",
            hint=f"Choose data with {encoder.needed}." if needed else "Its rows are empty, or too long.",
        )


def _cache_key(source: Source, encoder: RowEncoder, config: RunConfig) -> str:
    key = _settings(encoder, config) | {
        "train": source.train.folder.name,  # itself a hash of the file's bytes and of how they were read
        "validation": source.validation.folder.name if source.validation else config.data.validation,
        "near": NEAR_VERSION,
        "weights": [part.weight for part in config.data.mix],
        "seed": config.training.seed,
        "samples": msgspec.to_builtins(config.samples),
    }
    return _hashed(key)


def _settings(encoder: RowEncoder, config: RunConfig) -> dict[str, object]:
    return {
        "version": PREPARER_VERSION,
        "tokenizer": encoder.tokenizer.sha256,
        "template": encoder.template.sha256,
        "stop_ids": encoder.stop_ids,
        "method": config.training.method,
        "train_on": config.data.train_on,
        "seq_len": config.data.seq_len,
        "too_long": config.data.too_long,
        **encoder.settings,
    }


def _hashed(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
