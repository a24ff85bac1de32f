"""What a run costs in rows and updates, from the lengths of its rows in tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.run_config import DataConfig, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.report import ImportReport
from qlora_studio.data.too_long import too_long

FILL = 0.96  # of a packed row that is tokens, on the sample data at 256
FEW_UPDATES = 50  # fewer than this rarely teaches anything
SHORTEST = 64  # tokens: no shorter row is offered
MOST_EPOCHS = 20  # more are learned by heart
TEXT = "text"  # the format whose rows are split where they are too long

Lengths = NDArray[np.int32]  # [rows, 2]: tokens, learned tokens


@dataclass(frozen=True)
class Stretch:
    """Rows that are treated alike: those of a file, or of one data set in a mixture. last: not of them.

    weight: how often a row is seen in one pass; split: longer rows become several, and nothing is lost
    has_source: for an encoder-decoder, which has a limit for sources and one for targets
    """

    first: int
    last: int
    weight: float = 1.0
    split: bool = False
    has_source: bool = False


@dataclass(frozen=True)
class Kept:
    """Rows that are trained on, and rows longer than the limit. Of one pass over them, by their weights:
    how many are seen, and their tokens.
    """

    rows: int = 0
    longer: int = 0
    seen: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class LimitCost:
    """What a length limit costs: rows longer than it, learned tokens lost (at most), updates of a run."""

    rows: int
    learned_lost: int
    learned: int
    updates: int


def stretches(
    report: ImportReport, formats: Sequence[str] = (), *, has_source: bool = False
) -> tuple[Stretch, ...]:
    """formats: of each data set of a mixture; empty: they aren't known apart."""
    if not report.parts:
        return (Stretch(0, report.conversations, 1.0, report.format == TEXT and not has_source, has_source),)
    known = formats or [report.format] * len(report.parts)
    return tuple(
        Stretch(
            part.first_row,
            part.first_row + part.rows,
            part.weight,
            format == TEXT and not has_source,
            has_source,
        )
        for part, format in zip(report.parts, known, strict=True)
    )


def limit_cost(lengths: Lengths, config: RunConfig, seq_len: int, rows: Sequence[Stretch] = ()) -> LimitCost:
    """Of rows cut, at most the tokens beyond the limit are lost: answers stand at their ends.

    rows: what they are treated as; empty: all alike, each seen once
    """
    data = msgspec.structs.replace(config.data, seq_len=seq_len)
    tokens, learned = lengths[:, 0].astype(np.int64), lengths[:, 1].astype(np.int64)
    has_source = any(stretch.has_source for stretch in rows)
    if has_source:
        data = msgspec.structs.replace(data, packing=False)
    longer = too_long(lengths, seq_len, data.target_len if has_source else 0)
    for stretch in rows:
        if stretch.split:
            longer[stretch.first : stretch.last] = False
    lost = learned[longer]
    if data.too_long == "truncate":
        beyond = learned[longer] - data.target_len if has_source else tokens[longer] - seq_len
        lost = np.minimum(lost, np.maximum(beyond, 0))
    changed = msgspec.structs.replace(config, data=data)
    return LimitCost(
        rows=int(longer.sum()),
        learned_lost=int(lost.sum()),
        learned=int(learned.sum()),
        updates=updates(changed, kept_rows(lengths, data, rows)),
    )


def kept_rows(lengths: Lengths | None, data: DataConfig, rows: Sequence[Stretch] = ()) -> Kept:
    """Of all rows, those to be held out among them. rows: see `limit_cost`."""
    if lengths is None:
        return Kept()
    kept = Kept()
    for stretch in rows or (Stretch(0, len(lengths)),):
        kept = _sum(kept, _kept_of(lengths[stretch.first : stretch.last], data, stretch))
    return kept


def _kept_of(lengths: Lengths, data: DataConfig, stretch: Stretch) -> Kept:
    tokens, learned = lengths[:, 0], lengths[:, 1]
    target_len = data.target_len if stretch.has_source else 0
    longer = too_long(lengths, data.seq_len, target_len) & (not stretch.split)
    kept = (learned > 0) & (~longer | (data.too_long == "truncate"))
    tokens = tokens[kept].astype(np.int64)
    pieces = -(-tokens // data.seq_len) if stretch.split else np.ones_like(tokens)
    most = data.seq_len + (1 + target_len if stretch.has_source else 0)
    whole = tokens if stretch.split else np.minimum(tokens, most)
    return Kept(
        rows=int(kept.sum()),
        longer=int(longer.sum()),
        seen=stretch.weight * int(pieces.sum()),
        tokens=round(stretch.weight * int(whole.sum())),
    )


def _sum(one: Kept, other: Kept) -> Kept:
    return Kept(
        rows=one.rows + other.rows,
        longer=one.longer + other.longer,
        seen=one.seen + other.seen,
        tokens=one.tokens + other.tokens,
    )


def rows_seen(rows: Sequence[Stretch], kept: NDArray[np.bool_] | None = None) -> int:
    """Of those kept (None: of all), how many an epoch shows at least once."""
    seen = 0.0
    for stretch in rows:
        first, last = stretch.first, stretch.last
        there = last - first if kept is None else int(np.count_nonzero(kept[first:last]))
        seen += min(stretch.weight, 1.0) * there
    return round(seen)


def updates(config: RunConfig, kept: Kept) -> int:
    """How many the run will make, about; 0 where nothing is known of its rows."""
    training = config.training
    if training.steps:
        return training.steps
    whole, part = int(training.epochs), training.epochs % 1
    a_pass = _updates_a_pass(config, kept)
    return max(1, a_pass * whole + round(a_pass * part)) if kept.rows else 0


def tokens_computed(config: RunConfig, kept: Kept, *, padded: bool) -> float:
    """In all updates, about. padded: every batch is computed as a full one; else only what stands in it.

    Where nothing is known of the rows, as if all were full.
    """
    data, batch_size = config.data, config.training.batch_size
    a_row = data.seq_len * FILL
    if not kept.rows:
        return updates(config, kept) * rows_an_update(config) * a_row
    a_pass = kept.tokens * _trained_share(data)
    if padded:
        a_pass = math.ceil(_rows_a_pass(config, kept) / batch_size) * batch_size * a_row
    return updates(config, kept) / _updates_a_pass(config, kept) * a_pass


def _updates_a_pass(config: RunConfig, kept: Kept) -> int:
    """No update goes on in the next pass: little data makes one in each."""
    return max(1, math.ceil(_rows_a_pass(config, kept) / rows_an_update(config)))


def _rows_a_pass(config: RunConfig, kept: Kept) -> float:
    """Of the batch: packed ones where rows are packed."""
    data, share = config.data, _trained_share(config.data)
    return kept.tokens * share / (data.seq_len * FILL) if data.packing else kept.seen * share


def _trained_share(data: DataConfig) -> float:
    """What isn't held out."""
    return 1.0 - (data.validation if isinstance(data.validation, float | int) else 0.0)


def rows_an_update(config: RunConfig) -> int:
    """The effective batch."""
    return config.training.batch_size * config.training.gradient_accumulation


def ways_to_more_updates(
    config: RunConfig, lengths: Lengths, rows: Sequence[Stretch] = ()
) -> Iterator[dict[str, Any]]:
    """Changes that each give `FEW_UPDATES`: fewer tokens an update, or the same rows more often."""
    if config.training.steps:
        yield {"training.steps": FEW_UPDATES}
        return
    changes = _less_an_update(config, lengths, rows)
    if changes:
        yield changes
    epochs = config.training.epochs * FEW_UPDATES / updates(config, kept_rows(lengths, config.data, rows))
    if epochs <= MOST_EPOCHS:
        yield {"training.epochs": float(math.ceil(epochs))}


def to_next_64(tokens: int) -> int:
    """A length that holds `tokens`."""
    return -(-tokens // 64) * 64


def _less_an_update(config: RunConfig, lengths: Lengths, rows: Sequence[Stretch]) -> dict[str, Any]:
    """Accumulation first, then rows a step, then shorter rows that still hold the longest chat."""
    changes: dict[str, Any] = {}
    for key, values in (
        ("training.gradient_accumulation", range(config.training.gradient_accumulation - 1, 0, -1)),
        ("training.batch_size", range(config.training.batch_size - 1, 0, -1)),
        ("data.seq_len", _shorter(config, lengths)),
    ):
        for value in values:
            changes[key] = value
            changed = with_changes(config, changes)
            if updates(changed, kept_rows(lengths, changed.data, rows)) >= FEW_UPDATES:
                return changes
    return {}


def _shorter(config: RunConfig, lengths: Lengths) -> list[int]:
    """Only where rows are packed: else a shorter limit computes nothing less."""
    longest = max(to_next_64(int(lengths[:, 0].max(initial=0))), SHORTEST)
    halves, seq_len = [], config.data.seq_len
    while config.data.packing and seq_len // 2 > longest:
        seq_len //= 2
        halves.append(seq_len)
    return [*halves, longest] if config.data.packing and longest < seq_len else halves
